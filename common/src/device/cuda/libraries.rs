//! Finds the libraries that a GPU needs: the driver, and, from a CUDA installation or from pip's
//! `nvidia-*` packages, the run-time compiler (NVRTC), the matrix products (cuBLASLt), and for runs on
//! several GPUs their sums (NCCL).
//!
//! Nothing is linked. A library that the loader does not find by itself is opened here by its path;
//! the loader then knows it by its name when cudarc asks for it.

use std::path::{Path, PathBuf};

use cudarc::{cublaslt, driver, nvrtc};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::{Result, error};

/// Whether there is a driver. cudarc panics where it is asked for anything without one.
pub(super) fn driver_is_present() -> bool {
    // SAFETY: only opens the library; its initializers are NVIDIA's.
    #[allow(unsafe_code)]
    unsafe {
        driver::sys::is_culib_present()
    }
}

/// Makes NVRTC loadable, or says how to get it.
pub fn find_compiler() -> Result<()> {
    // SAFETY: as above.
    #[allow(unsafe_code)]
    find("nvrtc", || unsafe { nvrtc::sys::is_culib_present() })
}

/// Makes cuBLASLt loadable, or says how to get it.
pub(super) fn find_products() -> Result<()> {
    // SAFETY: as above.
    #[allow(unsafe_code)]
    find("cublasLt", || unsafe { cublaslt::sys::is_culib_present() })
}

fn find(name: &str, is_present: impl Fn() -> bool) -> Result<()> {
    if !is_present() {
        preload(name);
    }
    match is_present() {
        true => Ok(()),
        false => Err(error!("lib{name} was not found: it comes with the CUDA toolkit, 12 or 13").hint(
            "python3 -m pip install nvidia-cuda-nvrtc nvidia-cublas in an active environment, \
             or set CUDA_HOME, or use --device cpu",
        )),
    }
}

/// The name that all versions 2 of NCCL have.
const NCCL: &str = "libnccl.so.2";
/// How to get NCCL.
pub(super) const NCCL_HINT: &str = "python3 -m pip install nvidia-nccl-cu12 (or -cu13) in an active environment, or \
     install it with CUDA and set CUDA_HOME, or name one GPU with --device cuda:0";

/// Opens NCCL: the one that the loader finds, or else one where CUDA is usually installed.
pub(super) fn open_nccl() -> Result<Library> {
    let places = directories().into_iter().map(|directory| directory.join(NCCL)).filter(|path| path.exists());
    let mut problem = None;
    for path in std::iter::once(PathBuf::from(NCCL)).chain(places) {
        // SAFETY: opening a library runs its initializers; this one is NVIDIA's by its name.
        #[allow(unsafe_code)]
        match unsafe { Library::open(Some(&path), RTLD_NOW) } {
            Ok(library) => return Ok(library),
            Err(error) => problem = Some(error),
        }
    }
    let problem = problem.map_or(String::new(), |problem| format!(": {problem}"));
    Err(error!("several GPUs need NCCL, and {NCCL} cannot be opened{problem}").hint(NCCL_HINT))
}

/// Opens every version of lib`name` that stands where CUDA is usually installed. What NVRTC itself
/// opens by name (its builtins) comes first.
fn preload(name: &str) {
    for directory in directories() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        let matches = |prefix: String| {
            move |path: &&PathBuf| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(&prefix) && !name.contains(".alt."))
            }
        };
        for path in files
            .iter()
            .filter(matches(format!("lib{name}-builtins.so")))
            .chain(files.iter().filter(matches(format!("lib{name}.so"))))
        {
            // SAFETY: opening a library runs its initializers; this one is NVIDIA's by its name.
            #[allow(unsafe_code)]
            if let Ok(library) = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
                // It stays open for as long as the process runs.
                std::mem::forget(library);
            }
        }
    }
}

/// Where CUDA's libraries are installed: the toolkit's directory, then pip's packages.
fn directories() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let toolkits = toolkits.chain([PathBuf::from("/usr/local/cuda")]);
    let mut found: Vec<PathBuf> = toolkits
        .flat_map(|root| ["lib64", "lib", "targets/x86_64-linux/lib"].map(|lib| root.join(lib)))
        .collect();
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable) {
        for python in subdirectories(&environment.join("lib")) {
            for package in subdirectories(&python.join("site-packages/nvidia")) {
                found.push(package.join("lib"));
            }
        }
    }
    found
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}
