//! Kernels are compiled when they are first used, for the GPU at hand, and kept on disk.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use super::Float16;
use crate::{Context, Result, cli, error, hex};

/// A file of kernels.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// As messages and the cache name it.
    pub name: &'static str,
    /// CUDA C++ without includes; the prelude is pasted in front.
    text: &'static str,
    /// Whether it has instructions that only GPUs of compute capability 9.0 have.
    hopper: bool,
}

impl Source {
    /// Kernels for every GPU.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, hopper: false }
    }

    /// Kernels for Hopper (H100, H200) alone.
    pub const fn for_hopper(name: &'static str, text: &'static str) -> Self {
        Self { name, text, hopper: true }
    }

    /// Whether GPUs of this compute capability, as 90 for 9.0, run it.
    pub fn runs_on(&self, architecture: u32) -> bool {
        !self.hopper || architecture == 90
    }

    /// What the compiler calls such GPUs.
    fn target(&self, architecture: u32) -> String {
        format!("sm_{architecture}{}", if self.hopper { "a" } else { "" })
    }
}

const PRELUDE: &str = include_str!("prelude.cuh");

/// Machine code of a source, from the cache on disk or from the compiler. `architecture` is the
/// compute capability, as 90 for 9.0.
pub(super) fn machine_code(source: &Source, architecture: u32, float16: Float16) -> Result<Vec<u8>> {
    let path = cached(source, architecture, float16);
    if let Some(code) = path.as_ref().ok().and_then(|path| std::fs::read(path).ok()) {
        return Ok(code);
    }
    let compiled = compile(source, architecture, float16)?;
    // A cache that cannot be written costs a second the next time, no more.
    if let Err(error) = path.and_then(|path| store(&path, &compiled.code)) {
        cli::detail(format_args!("compiled kernels are not kept: {error}"));
    }
    Ok(compiled.code)
}

/// `NAME-HASH.cubin` in the user's cache: the hash is of all that the code depends on.
fn cached(source: &Source, architecture: u32, float16: Float16) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(PRELUDE);
    hash.update([0]);
    hash.update(source.text);
    let target = source.target(architecture);
    hash.update(format!("\0{target} {float16:?} nvrtc {:?}", version()));
    let hash = hex(&hash.finalize()[..12]);
    Ok(cli::cache_directory("kernels")?.join(format!("{}-{target}-{hash}.cubin", source.name)))
}

/// Written beside and renamed: processes that start at once never see half a file.
fn store(path: &Path, code: &[u8]) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    std::io::Write::write_all(&mut file, code)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// What the compiler made, and what it said.
#[derive(Debug)]
pub struct Compiled {
    /// A cubin.
    pub code: Vec<u8>,
    /// Warnings, and the registers and memory that each kernel takes.
    pub log: String,
}

/// NVRTC's version, as (13, 0).
fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    #[allow(unsafe_code)]
    unsafe {
        sys::nvrtcVersion(&mut major, &mut minor);
    }
    (major, minor)
}

/// Compiles a source with NVRTC, which must be loadable.
pub fn compile(source: &Source, architecture: u32, float16: Float16) -> Result<Compiled> {
    let numbers = match float16 {
        Float16::Bf16 => "",
        Float16::Fp16 => "#define FP16\n",
    };
    let text = CString::new([numbers, PRELUDE, source.text].concat())
        .map_err(|_| error!(Bug, "a kernel with a NUL"))?;
    let name =
        CString::new(format!("{}.cu", source.name)).map_err(|_| error!(Bug, "a kernel's name with a NUL"))?;
    let target = source.target(architecture);
    let architecture_option = CString::new(format!("--gpu-architecture={target}"))
        .map_err(|_| error!(Bug, "an architecture with a NUL"))?;
    let options: [*const c_char; 4] = [
        architecture_option.as_ptr(),
        c"--std=c++17".as_ptr(),
        c"-default-device".as_ptr(),
        c"--ptxas-options=-v".as_ptr(),
    ];
    let program = result::create_program(&text, Some(&name))
        .map_err(|error| error!(Gpu, "NVRTC cannot begin {}: {error:?}", source.name))?;
    // SAFETY: `program` is live until it is destroyed below; sizes are asked for before each copy.
    #[allow(unsafe_code)]
    unsafe {
        let status = sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr());
        let mut size = 0;
        sys::nvrtcGetProgramLogSize(program, &mut size);
        let mut log = vec![0u8; size.max(1)];
        sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        let log =
            CStr::from_bytes_until_nul(&log).map_or_else(|_| "".into(), CStr::to_string_lossy).into_owned();
        let mut code = Vec::new();
        if status == sys::nvrtcResult::NVRTC_SUCCESS {
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &mut size);
            code = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast());
        }
        let mut program = program;
        sys::nvrtcDestroyProgram(&mut program);
        if code.is_empty() {
            return Err(error!(
                Bug,
                "NVRTC {:?} cannot compile {} for {target}: {status:?}\n{log}",
                version(),
                source.name
            ))
            .hint("a GPU newer than the compiler needs a newer nvidia-cuda-nvrtc; or use --device cpu");
        }
        Ok(Compiled { code, log })
    }
}
