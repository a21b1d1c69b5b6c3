//! Kernels are compiled when they are first used, for the GPU at hand, and kept on disk.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use super::Float16;
use crate::{Context, Result, cli, error, hex};

/// A file of kernels.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    /// The name that messages and the cache on disk have for it.
    pub name: &'static str,
    /// CUDA C++ without includes; the prelude is pasted in front.
    text: &'static str,
    /// Whether it has instructions that only GPUs of compute capability 9.0 have.
    hopper: bool,
}

impl KernelSource {
    /// Kernels for every GPU.
    pub(crate) const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, hopper: false }
    }

    /// Kernels for Hopper (H100, H200) alone.
    pub(crate) const fn for_hopper(name: &'static str, text: &'static str) -> Self {
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

/// Loads the machine code of a source, from the cache on disk or from the compiler. `architecture` is the
/// compute capability, as 90 for 9.0.
pub(super) fn load<T>(
    source: &KernelSource,
    architecture: u32,
    float16: Float16,
    load: impl Fn(&[u8]) -> Result<T>,
) -> Result<T> {
    let path = version()
        .and_then(|version| {
            let name = cached_name(source, architecture, float16, version);
            Ok(cli::cache_directory("kernels")?.join(name))
        })
        .inspect_err(|error| cli::verbose(format_args!("compiled kernels are not kept: {error}")))
        .ok();
    load_or_compile(path.as_deref(), || Ok(compile(source, architecture, float16)?.code), load)
}

/// Loads what lies at `path`, or what the compiler makes; that is then kept there. A file that does not
/// load is damaged, and is made anew once.
fn load_or_compile<T>(
    path: Option<&Path>,
    compile: impl FnOnce() -> Result<Vec<u8>>,
    load: impl Fn(&[u8]) -> Result<T>,
) -> Result<T> {
    if let Some(path) = path
        && let Ok(code) = std::fs::read(path)
    {
        match load(&code) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => {
                cli::verbose(format_args!("{}: compiled again, because {error}", path.display()));
                // Where it cannot be removed, it is replaced below or compiled again the next time.
                let _ = std::fs::remove_file(path);
            }
        }
    }
    let code = compile()?;
    let loaded = load(&code)?;
    // A cache that cannot be written costs a second the next time, no more.
    if let Some(Err(error)) = path.map(|path| store(path, &code)) {
        cli::verbose(format_args!("compiled kernels are not kept: {error}"));
    }
    Ok(loaded)
}

/// What the compiler is told besides the source and the target.
const OPTIONS: [&CStr; 3] = [c"--std=c++17", c"-default-device", c"--ptxas-options=-v"];

/// `NAME-TARGET-HASH.cubin`: the hash is of all that the code depends on.
fn cached_name(source: &KernelSource, architecture: u32, float16: Float16, version: (i32, i32)) -> String {
    let mut hash = Sha256::new();
    hash.update(PRELUDE);
    hash.update([0]);
    hash.update(source.text);
    let target = source.target(architecture);
    hash.update(format!("\0{target} {float16:?} nvrtc {version:?} {OPTIONS:?}"));
    let hash = hex(&hash.finalize()[..12]);
    format!("{}-{target}-{hash}.cubin", source.name)
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
fn version() -> Result<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    #[allow(unsafe_code)]
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    succeeded(status, "tell its version")?;
    Ok((major, minor))
}

fn succeeded(status: sys::nvrtcResult, what: &str) -> Result<()> {
    match status {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        status => Err(error!(Gpu, "NVRTC cannot {what}: {status:?}")),
    }
}

/// A source that NVRTC has taken, until it is dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is live, and not used after this.
        #[allow(unsafe_code)]
        unsafe {
            sys::nvrtcDestroyProgram(&mut self.0);
        }
    }
}

impl Program {
    /// What the compiler said.
    fn log(&self) -> Result<String> {
        let log = self.copy("give its log", sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
        let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
        Ok(text.map_or_else(|_| String::new(), |text| text.into_owned()))
    }

    /// The machine code, after the program has been compiled.
    fn code(&self) -> Result<Vec<u8>> {
        self.copy("give its code", sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
    }

    /// Bytes of which NVRTC tells the number before it copies them.
    fn copy(
        &self,
        what: &str,
        size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
        get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program is live; writes one integer.
        #[allow(unsafe_code)]
        succeeded(unsafe { size(self.0, &mut len) }, what)?;
        let mut bytes = vec![0u8; len];
        // SAFETY: the program is live, and the buffer has the size that it asked for.
        #[allow(unsafe_code)]
        succeeded(unsafe { get(self.0, bytes.as_mut_ptr().cast()) }, what)?;
        Ok(bytes)
    }
}

/// Compiles a source with NVRTC, which must be loadable.
pub fn compile(source: &KernelSource, architecture: u32, float16: Float16) -> Result<Compiled> {
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
    let mut options: Vec<*const c_char> = vec![architecture_option.as_ptr()];
    options.extend(OPTIONS.map(CStr::as_ptr));
    let program = result::create_program(&text, Some(&name))
        .map_err(|error| error!(Gpu, "NVRTC cannot begin {}: {error:?}", source.name))?;
    let program = Program(program);
    // SAFETY: the program is live, and the options live until the call returns.
    #[allow(unsafe_code)]
    let status = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as i32, options.as_ptr()) };
    let log = program.log()?;
    if status != sys::nvrtcResult::NVRTC_SUCCESS {
        let (name, version) = (source.name, version()?);
        return Err(error!(Bug, "NVRTC {version:?} cannot compile {name} for {target}: {status:?}\n{log}"))
            .hint("a GPU newer than the compiler needs a newer nvidia-cuda-nvrtc; or use --device cpu");
    }
    Ok(Compiled { code: program.code()?, log })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const SOURCE: KernelSource = KernelSource::new("name", "text");

    #[test]
    fn names_differ_by_all_that_the_code_depends_on() {
        let name = |source: &KernelSource, architecture, float16, version| {
            cached_name(source, architecture, float16, version)
        };
        let usual = name(&SOURCE, 90, Float16::Bf16, (13, 0));
        assert!(usual.starts_with("name-sm_90-") && usual.ends_with(".cubin"), "{usual}");
        for other in [
            name(&KernelSource::new("name", "other"), 90, Float16::Bf16, (13, 0)),
            name(&KernelSource::for_hopper("name", "text"), 90, Float16::Bf16, (13, 0)),
            name(&SOURCE, 80, Float16::Bf16, (13, 0)),
            name(&SOURCE, 90, Float16::Fp16, (13, 0)),
            name(&SOURCE, 90, Float16::Bf16, (13, 1)),
        ] {
            assert_ne!(other, usual);
        }
    }

    /// A driver that takes one code only.
    fn load(code: &[u8]) -> Result<usize> {
        match code == b"good" {
            true => Ok(code.len()),
            false => Err(error!(Gpu, "CUDA_ERROR_INVALID_IMAGE")),
        }
    }

    #[test]
    fn damaged_code_is_compiled_again_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("name.cubin");
        let compiled = Cell::new(0);
        let run = |made: &[u8]| {
            let compile = || {
                compiled.set(compiled.get() + 1);
                Ok(made.to_vec())
            };
            load_or_compile(Some(&path), compile, load)
        };
        std::fs::write(&path, "cut").unwrap();
        assert_eq!(run(b"good").unwrap(), 4);
        assert_eq!((compiled.get(), std::fs::read(&path).unwrap().as_slice()), (1, &b"good"[..]));
        assert_eq!(run(b"not asked for").unwrap(), 4);
        assert_eq!(compiled.get(), 1, "from the cache");
        std::fs::write(&path, "cut").unwrap();
        assert!(run(b"bad as well").unwrap_err().to_string().contains("INVALID_IMAGE"));
        assert!(!path.exists() && compiled.get() == 2, "what does not load is not kept");
    }
}
