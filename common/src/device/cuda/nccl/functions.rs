//! NCCL's functions, which are looked up in its library when a run of several ranks begins.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;

use cudarc::driver::sys::CUstream;
use libloading::os::unix::Library;

use super::super::libraries;
use crate::{Error, Result, error};

/// `ncclSuccess`
pub(super) const SUCCESS: c_int = 0;
/// `ncclInProgress`
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclUint8`
pub(super) const UINT8: c_int = 1;
/// `ncclFloat32`
pub(super) const FLOAT32: c_int = 7;
/// `ncclSum`
pub(super) const SUM: c_int = 0;
/// The oldest version, 2.18, which came with CUDA 12.
const OLDEST: c_int = 21_800;
/// The bytes of `ncclUniqueId`.
pub(super) const ID_BYTES: usize = 128;

/// NCCL's `ncclUniqueId`, by which the ranks of a communicator find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; ID_BYTES]);

/// The first fields of NCCL's `ncclConfig_t`, whose `size` says that there are no more.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// Not set, which NCCL writes as the least integer.
    cga_cluster_size: c_int,
}

impl Config {
    /// A communicator whose calls do not wait for other ranks.
    pub(super) fn not_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST as u32,
            blocking: 0,
            cga_cluster_size: c_int::MIN,
        }
    }
}

/// A communicator of NCCL.
pub(super) type Handle = *mut c_void;

/// The functions of NCCL that are used, with the signatures of nccl.h.
pub(super) struct Functions {
    pub(super) get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    pub(super) init: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int,
    pub(super) async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    pub(super) all_reduce:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> c_int,
    pub(super) all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, CUstream) -> c_int,
    pub(super) abort: unsafe extern "C" fn(Handle) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Handle) -> *const c_char,
    pub(super) version: c_int,
    /// Holds the functions.
    _library: Library,
}

impl Functions {
    /// Loads NCCL; what is missing or too old is an error that says how to get it.
    pub(super) fn load() -> Result<Self> {
        prefer_no_multicast();
        let library = libraries::open_nccl()?;
        let missing = |problem: libloading::Error| {
            error!("NCCL lacks a function that is needed: {problem}").hint(libraries::NCCL_HINT)
        };
        let mut version = 0;
        // SAFETY: the symbols are NCCL's by the name of the library, with the signatures of nccl.h, and are kept
        // together with it; `ncclGetVersion` writes one integer.
        #[allow(unsafe_code)]
        unsafe {
            let get_version = *library
                .get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0")
                .map_err(missing)?;
            get_version(&mut version);
            check_version(version)?;
            Ok(Self {
                get_unique_id: *library.get(b"ncclGetUniqueId\0").map_err(missing)?,
                init: *library.get(b"ncclCommInitRankConfig\0").map_err(missing)?,
                async_error: *library.get(b"ncclCommGetAsyncError\0").map_err(missing)?,
                all_reduce: *library.get(b"ncclAllReduce\0").map_err(missing)?,
                all_gather: *library.get(b"ncclAllGather\0").map_err(missing)?,
                abort: *library.get(b"ncclCommAbort\0").map_err(missing)?,
                error_string: *library.get(b"ncclGetErrorString\0").map_err(missing)?,
                last_error: *library.get(b"ncclGetLastError\0").map_err(missing)?,
                version,
                _library: library,
            })
        }
    }

    /// The error of a call, with what NCCL says about it.
    pub(super) fn failed(&self, code: c_int, handle: Handle) -> Error {
        // SAFETY: both functions return static text that ends with a zero, or null; a null communicator is allowed.
        #[allow(unsafe_code)]
        let texts = unsafe { [(self.error_string)(code), (self.last_error)(handle)] };
        let texts = texts.map(|text| {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) });
            text.map_or(String::new(), |text| text.to_string_lossy().trim().to_owned())
        });
        let [what, details] = texts;
        let details = if details.is_empty() { details } else { format!(": {details}") };
        error!("NCCL: {what}{details}").hint(
            "NCCL_DEBUG=INFO says more; NCCL_SOCKET_IFNAME names the network interface between machines, and \
             NCCL_P2P_DISABLE=1 leaves out transfers between GPUs that a virtual machine forbids",
        )
    }
}

/// NVLink multicast fails on machines that are shared, so it is left out unless the user asks for it.
fn prefer_no_multicast() {
    const NAME: &str = "NCCL_NVLS_ENABLE";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: the standard library locks the environment for its own readers. Code of other languages reads it
        // while it opens libraries, which no other thread does while a run of several ranks begins.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(NAME, "0");
        }
    }
}

/// Fails where NCCL is older than what is used of it.
fn check_version(version: c_int) -> Result<()> {
    if version >= OLDEST {
        return Ok(());
    }
    let (oldest, found) = (Version(OLDEST), Version(version));
    Err(error!("NCCL {oldest} or newer is needed, found {found}").hint(libraries::NCCL_HINT))
}

/// A version of NCCL, shown as 2.18.3 for 21803.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version(pub(super) c_int);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Before 2.9 the digits were fewer.
            old if old < 10_000 => write!(f, "{}.{}.{}", old / 1000, old / 100 % 10, old % 100),
            version => write!(f, "{}.{}.{}", version / 10_000, version / 100 % 100, version % 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_as_nvidia_writes_them() {
        for (version, shown) in [(2_708, "2.7.8"), (21_803, "2.18.3"), (22_803, "2.28.3")] {
            assert_eq!(Version(version).to_string(), shown);
        }
    }

    #[test]
    fn an_old_version_is_refused_with_the_way_to_a_newer_one() {
        check_version(OLDEST).unwrap();
        let error = check_version(21_705).unwrap_err();
        assert_eq!(error.to_string(), "NCCL 2.18.0 or newer is needed, found 2.17.5");
        assert!(error.hint_text().unwrap().contains("pip install nvidia-nccl-cu12"));
    }

    #[test]
    fn the_configuration_is_the_beginning_of_nccls() {
        assert_eq!((size_of::<Config>(), std::mem::offset_of!(Config, blocking)), (24, 16));
        assert_eq!(std::mem::offset_of!(Config, cga_cluster_size), 20);
    }
}
