//! How busy a GPU is, as nvidia-smi shows it: NVML, which comes with the driver. Where it is missing,
//! or refuses, there is no figure.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_NOW};

use super::Gpu;

const NVML: &str = "libnvidia-ml.so.1";
const SUCCESS: c_int = 0;

/// NVML's `nvmlUtilization_t`: percent of the last sample period (up to a second).
#[repr(C)]
#[derive(Default)]
struct Rates {
    /// In which a kernel ran.
    gpu: c_uint,
    /// In which memory was read or written.
    memory: c_uint,
}

type Init = unsafe extern "C" fn() -> c_int;
type HandleByBus = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type RatesOf = unsafe extern "C" fn(*mut c_void, *mut Rates) -> c_int;

/// A GPU that NVML can be asked about.
pub struct Utilization {
    device: *mut c_void,
    rates: RatesOf,
    /// Holds the functions; NVML stays initialized as long as the process runs.
    _library: Library,
}

impl Utilization {
    /// NVML's view of `gpu`. The bus tells which one it is: NVML numbers GPUs in its own way.
    pub fn of(gpu: &Gpu) -> Option<Self> {
        // SAFETY: opens NVIDIA's library and calls functions with the signatures of nvml.h. The bus id
        // fits its buffer with the zero that ends it, and outputs are only used after a success.
        #[allow(unsafe_code)]
        unsafe {
            let library = Library::open(Some(NVML), RTLD_NOW).ok()?;
            let init = *library.get::<Init>(b"nvmlInit_v2\0").ok()?;
            let handle = *library.get::<HandleByBus>(b"nvmlDeviceGetHandleByPciBusId_v2\0").ok()?;
            let rates = *library.get::<RatesOf>(b"nvmlDeviceGetUtilizationRates\0").ok()?;
            let mut bus: [c_char; 32] = [0; 32];
            let found = sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), 32, gpu.context.cu_device());
            let mut device = std::ptr::null_mut();
            let is_there = found == sys::CUresult::CUDA_SUCCESS
                && init() == SUCCESS
                && handle(bus.as_ptr(), &mut device) == SUCCESS;
            is_there.then_some(Self { device, rates, _library: library })
        }
    }

    /// Percent of the last moment in which a kernel ran.
    pub fn percent(&self) -> Option<u32> {
        let mut rates = Rates::default();
        // SAFETY: the handle and the function are NVML's, which is still loaded; it fills one structure.
        #[allow(unsafe_code)]
        let code = unsafe { (self.rates)(self.device, &mut rates) };
        (code == SUCCESS).then_some(rates.gpu)
    }
}
