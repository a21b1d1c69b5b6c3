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
    let program = std::env::current_exe().ok();
    let own = program.as_deref().and_then(environment_of).map(PathBuf::from);
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable);
    found.extend(own.into_iter().chain(active).flat_map(|environment| pip_directories(&environment)));
    found
}

/// Returns the Python environment that a program is installed in: the directory above its `bin`. pipx and
/// `uv tool` install into an environment that is never active, with the packages of the extra `cuda` in it.
fn environment_of(program: &Path) -> Option<&Path> {
    let bin = program.parent().filter(|directory| directory.ends_with("bin"))?;
    bin.parent()
}

/// Returns the directories of libraries that pip's `nvidia-*` packages have in a Python environment. What Debian's
/// pip installs for everyone is below `/usr/local`, in `dist-packages`.
fn pip_directories(environment: &Path) -> Vec<PathBuf> {
    let pythons = subdirectories(&environment.join("lib")).into_iter();
    let packages =
        pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)));
    let packages = packages.flat_map(|packages| subdirectories(&packages.join("nvidia")));
    packages.map(|package| package.join("lib")).collect()
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_lie_in_the_environment_of_the_program() {
        let tools = tempfile::tempdir().unwrap();
        let environment = tools.path().join("qlora-tools");
        let packages = environment.join("lib/python3.12/site-packages/nvidia");
        for package in ["cu13/lib", "nccl/lib"] {
            fs_err::create_dir_all(packages.join(package)).unwrap();
        }
        let program = environment.join("bin/qlora");
        let found = pip_directories(environment_of(&program).unwrap());
        assert_eq!(found, [packages.join("cu13/lib"), packages.join("nccl/lib")]);
        let debian = environment.join("lib/python3.9/dist-packages/nvidia/cu13/lib");
        fs_err::create_dir_all(&debian).unwrap();
        assert!(pip_directories(&environment).contains(&debian));
        assert_eq!(environment_of(Path::new("/src/target/release/qlora")), None);
    }
}
