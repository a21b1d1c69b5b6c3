//! Sums over the GPUs of several processes: NCCL, which is loaded when a run of several ranks begins.
//!
//! The communicator does not block: every wait looks whether a rank was lost, and then gives up.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUstream;
use libloading::os::unix::Library;

use super::{Gpu, failed, libraries};
use crate::device::GpuVector;
use crate::{Error, Result, error};

/// `ncclSuccess`
const SUCCESS: c_int = 0;
/// `ncclInProgress`
const IN_PROGRESS: c_int = 7;
/// `ncclFloat32`
const FLOAT32: c_int = 7;
/// `ncclSum`
const SUM: c_int = 0;
/// The oldest version, 2.18, which came with CUDA 12.
const OLDEST: c_int = 21_800;
/// The bytes of `ncclUniqueId`.
const ID_BYTES: usize = 128;
/// The time between two looks at what is being waited for.
const LOOK: Duration = Duration::from_micros(50);
/// The time in which a failure of NCCL may turn out to be that of another rank.
const EXPLANATION: Duration = Duration::from_secs(3);

/// NCCL's `ncclUniqueId`, by which the ranks of a communicator find each other.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; ID_BYTES]);

/// The first fields of NCCL's `ncclConfig_t`, whose `size` says that there are no more.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// Not set, which NCCL writes as the least integer.
    cga_cluster_size: c_int,
}

/// A communicator of NCCL.
type Handle = *mut c_void;

/// The functions of NCCL that are used, with the signatures of nccl.h.
struct Functions {
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int,
    async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    all_reduce:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> c_int,
    abort: unsafe extern "C" fn(Handle) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Handle) -> *const c_char,
    version: c_int,
    /// Holds the functions.
    _library: Library,
}

impl Functions {
    /// Loads NCCL; what is missing or too old is an error that says how to get it.
    fn load() -> Result<Self> {
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
                abort: *library.get(b"ncclCommAbort\0").map_err(missing)?,
                error_string: *library.get(b"ncclGetErrorString\0").map_err(missing)?,
                last_error: *library.get(b"ncclGetLastError\0").map_err(missing)?,
                version,
                _library: library,
            })
        }
    }

    /// The error of a call, with what NCCL says about it.
    fn failed(&self, code: c_int, handle: Handle) -> Error {
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
struct Version(c_int);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Before 2.9 the digits were fewer.
            old if old < 10_000 => write!(f, "{}.{}.{}", old / 1000, old / 100 % 10, old % 100),
            version => write!(f, "{}.{}.{}", version / 10_000, version / 100 % 100, version % 100),
        }
    }
}

/// A rank of a group of GPUs that sum values.
pub struct Communicator {
    functions: Functions,
    handle: Handle,
    /// Whether the handle can still be used.
    is_open: Cell<bool>,
    gpu: Arc<Gpu>,
}

impl Communicator {
    /// The bytes by which the ranks of a communicator find each other; one rank makes them for all.
    pub fn unique_id() -> Result<Vec<u8>> {
        let functions = Functions::load()?;
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: the function writes one `ncclUniqueId`.
        #[allow(unsafe_code)]
        let code = unsafe { (functions.get_unique_id)(&mut id) };
        if code != SUCCESS {
            return Err(functions.failed(code, std::ptr::null_mut()));
        }
        // NCCL waits for the other ranks in a thread of its own, whose code must stay.
        std::mem::forget(functions);
        Ok(id.0.to_vec())
    }

    /// Joins the communicator of `size` ranks that `id` names, with the GPU of this rank. `check` fails once
    /// there is no use in waiting for the others.
    pub fn new(
        gpu: &Arc<Gpu>,
        id: &[u8],
        rank: usize,
        size: usize,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let id: [u8; ID_BYTES] = id
            .try_into()
            .map_err(|_| error!(Bug, "an id of NCCL of {ID_BYTES} bytes expected, found {}", id.len()))?;
        let int = |number: usize| c_int::try_from(number).map_err(|_| error!(Bug, "{number} ranks"));
        let (rank, size) = (int(rank)?, int(size)?);
        let functions = Functions::load()?;
        gpu.bind()?;
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: OLDEST as u32,
            blocking: 0,
            cga_cluster_size: c_int::MIN,
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: `config` begins with the fields of `ncclConfig_t` and says how long it is; the GPU's context is
        // current, and the handle is kept until it is given up.
        #[allow(unsafe_code)]
        let code = unsafe { (functions.init)(&mut handle, size, UniqueId(id), rank, &mut config) };
        let is_open = Cell::new(!handle.is_null());
        let communicator = Self { functions, handle, is_open, gpu: Arc::clone(gpu) };
        communicator.wait(code, check)?;
        Ok(communicator)
    }

    /// The version of NCCL.
    pub fn version(&self) -> impl fmt::Display {
        Version(self.functions.version)
    }

    /// Replaces the values by their sums over all ranks, and waits until they are there. The order of the sums
    /// follows from the number of values and from how the GPUs are connected, so that a run that is repeated
    /// gets the same bits.
    pub fn sum(&self, values: &mut GpuVector, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let len = values.len();
        if !Arc::ptr_eq(values.gpu(), &self.gpu) || !self.is_open.get() {
            return Err(error!(Bug, "sums by the communicator of another GPU, or by one that was given up"));
        }
        if len == 0 {
            return Ok(());
        }
        self.gpu.bind()?;
        let address = values.view_mut(0..len)?.address();
        let (from, to) = (address as *const c_void, address as *mut c_void);
        let stream = self.gpu.stream.cu_stream();
        // SAFETY: `address` is that of `len` f32 values on this GPU, which are borrowed until the stream has passed the
        // event below, or until the communicator is given up and touches nothing more; NCCL allows sums in place.
        #[allow(unsafe_code)]
        let code = unsafe { (self.functions.all_reduce)(from, to, len, FLOAT32, SUM, self.handle, stream) };
        self.wait(code, check)?;
        let done = self.gpu.stream.record_event(None).map_err(failed)?;
        while !done.try_is_complete().map_err(failed)? {
            self.wait(IN_PROGRESS, check)?;
        }
        Ok(())
    }

    /// Waits until a call that has returned `code` is through. Where it cannot be, the communicator is given up.
    fn wait(&self, mut code: c_int, check: &dyn Fn() -> Result<()>) -> Result<()> {
        while code == IN_PROGRESS {
            if let Err(stopped) = check() {
                self.give_up();
                return Err(stopped);
            }
            thread::sleep(LOOK);
            // SAFETY: the handle is a communicator; the function writes one integer.
            #[allow(unsafe_code)]
            let asked = unsafe { (self.functions.async_error)(self.handle, &mut code) };
            if asked != SUCCESS {
                code = asked;
            }
        }
        if code == SUCCESS {
            return Ok(());
        }
        let failure = self.functions.failed(code, self.handle);
        self.give_up();
        // NCCL may notice before this program does that another rank is gone.
        let begun = Instant::now();
        while begun.elapsed() < EXPLANATION {
            check()?;
            thread::sleep(LOOK);
        }
        Err(failure)
    }

    /// Ends what is under way on the GPU, so that nothing waits for it, and frees what NCCL holds.
    fn give_up(&self) {
        if self.is_open.replace(false) {
            // SAFETY: the handle is a communicator, which is not used after this.
            #[allow(unsafe_code)]
            unsafe {
                (self.functions.abort)(self.handle);
            }
        }
    }
}

impl Drop for Communicator {
    /// Every sum is through on all ranks by now: they meet after each.
    fn drop(&mut self) {
        self.give_up();
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
