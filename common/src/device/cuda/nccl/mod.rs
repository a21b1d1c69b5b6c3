//! Sums and gathers over the GPUs of several processes: NCCL, which is loaded when a run of several ranks begins.
//!
//! The communicator does not block: every wait looks whether a rank was lost, and then gives up. What waits on the GPU
//! itself ends when another thread gives the communicator up.

mod functions;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaSlice, CudaStream};

use super::launch::address;
use super::{Gpu, GpuVector, failed};
use crate::{Result, error};

use functions::{
    Config, FLOAT32, Functions, Handle, ID_BYTES, IN_PROGRESS, SUCCESS, SUM, UINT8, UniqueId, Version,
};

/// The time between two looks at what is being waited for.
const LOOK: Duration = Duration::from_micros(50);
/// The time in which a failure of NCCL may turn out to be that of another rank.
const EXPLANATION: Duration = Duration::from_secs(3);

/// A check that fails once waiting for other ranks is useless, as when one was lost.
pub type Check = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// A rank of a group of GPUs that exchange values. All ranks ask for the same exchanges in the same order.
pub struct Communicator {
    functions: Functions,
    /// `None` once the communicator was given up.
    open: Mutex<Option<Open>>,
    gpu: Arc<Gpu>,
    size: usize,
    rank: usize,
    check: Check,
}

/// The handle of a communicator that has not been given up.
struct Open(Handle);

// SAFETY: NCCL binds communicators to no thread, and `Communicator` uses the handle under a lock.
#[allow(unsafe_code)]
unsafe impl Send for Open {}

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

    /// Joins the communicator of `size` ranks that `id` names, with the GPU of this rank. `check` is asked in every wait
    /// for other ranks.
    pub fn new(gpu: &Arc<Gpu>, id: &[u8], rank: usize, size: usize, check: Check) -> Result<Self> {
        let id: [u8; ID_BYTES] = id
            .try_into()
            .map_err(|_| error!(Bug, "an id of NCCL of {ID_BYTES} bytes expected, found {}", id.len()))?;
        let int = |number: usize| c_int::try_from(number).map_err(|_| error!(Bug, "{number} ranks"));
        let (of_ranks, of_rank) = (int(size)?, int(rank)?);
        let functions = Functions::load()?;
        gpu.bind()?;
        let mut config = Config::not_blocking();
        let mut handle = std::ptr::null_mut();
        // SAFETY: `config` begins with the fields of `ncclConfig_t` and says how long it is; the GPU's context is
        // current, and the handle is kept until it is given up.
        #[allow(unsafe_code)]
        let code = unsafe { (functions.init)(&mut handle, of_ranks, UniqueId(id), of_rank, &mut config) };
        let open = Mutex::new((!handle.is_null()).then_some(Open(handle)));
        let communicator = Self { functions, open, gpu: Arc::clone(gpu), size, rank, check };
        communicator.wait(code)?;
        Ok(communicator)
    }

    /// The version of NCCL.
    pub fn version(&self) -> impl fmt::Display {
        Version(self.functions.version)
    }

    /// The number of ranks.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The number of this rank.
    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// Replaces the values by their sums over all ranks, and waits until they are there. The order of the sums
    /// follows from the number of values and from how the GPUs are connected, so that a run that is repeated
    /// gets the same bits.
    pub fn sum(&self, values: &mut GpuVector) -> Result<()> {
        let len = values.len();
        if !Arc::ptr_eq(values.gpu(), &self.gpu) {
            return Err(error!(Bug, "sums by the communicator of another GPU"));
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
        let sum =
            |handle| unsafe { (self.functions.all_reduce)(from, to, len, FLOAT32, SUM, handle, stream) };
        self.wait(self.call(sum)?)?;
        let done = self.gpu.stream.record_event(None).map_err(failed)?;
        while !done.try_is_complete().map_err(failed)? {
            self.wait(IN_PROGRESS)?;
        }
        Ok(())
    }

    /// Queues on `stream` what writes the parts of all ranks, in their order, to the memory at `address`. All parts are
    /// as long as `part`, that of this rank.
    ///
    /// # Safety
    /// There is room for the parts of all ranks. Until the stream has done it, or has been waited for after the
    /// communicator was given up, `part` is neither written nor freed, and nothing else uses the memory at `address`.
    #[allow(unsafe_code)]
    pub(super) unsafe fn gather(
        &self,
        part: &CudaSlice<u8>,
        address_of_all: u64,
        stream: &CudaStream,
    ) -> Result<()> {
        self.gpu.bind()?;
        let (from, to) = (address(part) as *const c_void, address_of_all as *mut c_void);
        let (len, stream) = (part.len(), stream.cu_stream());
        // SAFETY: `part` has `len` bytes, and the rest is the caller's promise.
        let gather = |handle| unsafe { (self.functions.all_gather)(from, to, len, UINT8, handle, stream) };
        self.wait(self.call(gather)?)
    }

    /// The code that `function` returns, which is called with the handle.
    fn call(&self, function: impl FnOnce(Handle) -> c_int) -> Result<c_int> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(Open(handle)) => Ok(function(*handle)),
            None => {
                drop(open);
                (self.check)()?;
                Err(error!(Bug, "an exchange by a communicator that was given up"))
            }
        }
    }

    /// Waits until a call that has returned `code` is through. Where it cannot be, the communicator is given up.
    fn wait(&self, mut code: c_int) -> Result<()> {
        while code == IN_PROGRESS {
            if let Err(stopped) = (self.check)() {
                self.give_up();
                return Err(stopped);
            }
            thread::sleep(LOOK);
            code = self.call(|handle| {
                let mut code = SUCCESS;
                // SAFETY: the handle is a communicator; the function writes one integer.
                #[allow(unsafe_code)]
                let asked = unsafe { (self.functions.async_error)(handle, &mut code) };
                if asked == SUCCESS { code } else { asked }
            })?;
        }
        if code == SUCCESS {
            return Ok(());
        }
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = open.as_ref().map_or(std::ptr::null_mut(), |Open(handle)| *handle);
        let failure = self.functions.failed(code, handle);
        drop(open);
        self.give_up();
        // NCCL may notice before this program does that another rank is gone.
        let begun = Instant::now();
        while begun.elapsed() < EXPLANATION {
            (self.check)()?;
            thread::sleep(LOOK);
        }
        Err(failure)
    }

    /// Ends what is under way on the GPU, so that nothing waits for it, and frees what NCCL holds. What was being
    /// exchanged has arbitrary values afterwards.
    pub fn give_up(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Open(handle)) = open {
            // A context that cannot be used has nothing under way.
            let _ = self.gpu.bind();
            // SAFETY: the handle is a communicator, which is not used after this.
            #[allow(unsafe_code)]
            unsafe {
                (self.functions.abort)(handle);
            }
        }
    }
}

impl Drop for Communicator {
    /// Every exchange is through on all ranks by now: they meet before the end of a run.
    fn drop(&mut self) {
        self.give_up();
    }
}
