//! Matrix products: cuBLASLt, its choice of algorithm kept for each shape.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaSlice, CudaStream};

use super::launch::address;
use super::product::{Checked, Key, Number, Precision, Product};
use super::view::StreamId;
use super::{Float16, Gpu, ViewMut, buffer_bytes, failed};
use crate::device::Write;
use crate::{Error, Result, error};

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    algorithms: Mutex<HashMap<Key, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: a cuBLASLt handle may be used from any thread, and algorithms are plain data. The workspace is the
// GPU's memory, which no thread touches.
#[allow(unsafe_code)]
unsafe impl Send for Products {}
// SAFETY: as for Send; cuBLASLt's handle takes calls of several threads at a time, and algorithms are guarded by a
// lock. All products share one workspace, and may: `Gpu::product` queues each of them on the one stream that
// computes, where they run one after the other whatever thread has queued them.
#[allow(unsafe_code)]
unsafe impl Sync for Products {}

/// Bytes of a GPU's memory that [`Products`] take.
pub(super) fn workspace_bytes() -> u64 {
    buffer_bytes::<u8>(WORKSPACE)
}

impl Products {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = result::create_handle().map_err(refused)?;
        // SAFETY: scratch of the library, which writes before it reads.
        #[allow(unsafe_code)]
        let workspace = unsafe { stream.alloc(WORKSPACE) }.map_err(failed)?;
        Ok(Self { handle, workspace, algorithms: Mutex::default() })
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        #[allow(unsafe_code)]
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// cuBLASLt's descriptors of one product. The library thinks in columns: a row-major matrix is its
/// transposed one, so it computes outᵀ = bᵀ·aᵀ.
struct Descriptors {
    operation: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

impl Descriptors {
    fn new(product: &Checked, float16: Float16) -> Result<Self> {
        let [m, n, k] = product.shape;
        let [a_stride, b_stride, out_stride] = product.strides;
        let [a_is_transposed, b_is_transposed] = product.transposed;
        let f32 = sys::cudaDataType::CUDA_R_32F;
        let layout = |dtype, rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(dtype, columns as u64, rows as u64, stride as i64).map_err(refused)
        };
        let factor = |rows, columns, stride, is_transposed| match is_transposed {
            true => layout(float16.data_type(), columns, rows, stride),
            false => layout(float16.data_type(), rows, columns, stride),
        };
        let out = match product.precision {
            Precision::Float16 => float16.data_type(),
            Precision::F32 => f32,
        };
        let descriptors = Self {
            operation: result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)
                .map_err(refused)?,
            a: factor(m, k, a_stride, a_is_transposed)?,
            b: factor(k, n, b_stride, b_is_transposed)?,
            out: layout(out, m, n, out_stride)?,
        };
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        descriptors.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(b_is_transposed))?;
        descriptors.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(a_is_transposed))?;
        if let Some(bias) = product.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            descriptors.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            descriptors.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(descriptors)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
        // SAFETY: the descriptor is live; the library copies `size_of::<T>()` bytes.
        #[allow(unsafe_code)]
        unsafe {
            result::set_matmul_desc_attribute(
                self.operation,
                attribute,
                std::ptr::from_ref(value).cast::<c_void>(),
                size_of::<T>(),
            )
        }
        .map_err(refused)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        #[allow(unsafe_code)]
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.a, self.b, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Gpu {
    /// Writes a product to `out`, or adds it to what is there, on the stream that computes.
    pub(crate) fn product<T: Number>(
        &self,
        product: Product<'_, T>,
        out: ViewMut<'_, T>,
        write: Write,
    ) -> Result<()> {
        let product = Checked::new(&product, &out, write)?;
        if product.stream != StreamId::of(&self.stream) {
            return Err(error!(Bug, "a product of this GPU's buffers expected"));
        }
        let [m, n, k] = product.shape;
        if m == 0 || n == 0 || k == 0 {
            return match write == Write::Add || m == 0 || n == 0 {
                true => Ok(()),
                false => Err(error!(Bug, "product of no columns")),
            };
        }
        self.bind()?;
        let descriptors = Descriptors::new(&product, self.float16)?;
        let key = product.key();
        let exact = Key { shape: product.shape, ..key };
        // What the library chose for a few tokens more it may refuse to do for these, where a matrix has one column.
        let run = |key: Key| self.run(&product, &descriptors, &self.algorithm(&product, key)?);
        match run(key) {
            Err(refusal) if exact != key => run(exact).map_err(|_| refusal),
            done => done,
        }
        .map_err(|error| error.context(format!("product {m} x {n} x {k}")))
    }

    fn run(
        &self,
        product: &Checked,
        descriptors: &Descriptors,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<()> {
        let beta: f32 = if product.added.is_some() { 1.0 } else { 0.0 };
        let [a, b, out] = product.addresses;
        // SAFETY: descriptors outlive the call. Addresses, extents and strides are those of views, which `Checked` has
        // compared with each other, so that only numbers of buffers that `Gpu::product` borrows are read and written;
        // work on buffers runs in the order of the calls.
        #[allow(unsafe_code)]
        unsafe {
            result::matmul(
                self.products.handle,
                descriptors.operation,
                (&raw const product.alpha).cast(),
                (&raw const beta).cast(),
                b as *const c_void,
                descriptors.b,
                a as *const c_void,
                descriptors.a,
                product.added.unwrap_or(out) as *const c_void,
                descriptors.out,
                out as *mut c_void,
                descriptors.out,
                std::ptr::from_ref(algorithm),
                address(&self.products.workspace) as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(refused)
    }

    /// The library's first choice for products of this key.
    fn algorithm(&self, product: &Checked, key: Key) -> Result<sys::cublasLtMatmulAlgo_t> {
        let mut algorithms = self.products.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = algorithms.get(&key) {
            return Ok(*algorithm);
        }
        let rounded = Checked { shape: key.shape, ..*product };
        let algorithm = choose(self.products.handle, &Descriptors::new(&rounded, self.float16)?, &key)?;
        algorithms.insert(key, algorithm);
        Ok(algorithm)
    }
}

fn choose(
    handle: sys::cublasLtHandle_t,
    descriptors: &Descriptors,
    key: &Key,
) -> Result<sys::cublasLtMatmulAlgo_t> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = result::create_matmul_pref().map_err(refused)?;
    let [a, b, out] = key.alignments;
    let workspace = WORKSPACE as u64;
    // SAFETY: all descriptors are live; the library copies the values.
    #[allow(unsafe_code)]
    unsafe {
        let set = |attribute, value: *const c_void, size| {
            result::set_matmul_pref_attribute(preference, attribute, value, size).map_err(refused)
        };
        let alignment = |attribute, value: &u32| set(attribute, std::ptr::from_ref(value).cast(), 4);
        let chosen =
            set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)
                .and_then(|()| alignment(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b))
                .and_then(|()| alignment(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a))
                .and_then(|()| alignment(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out))
                .and_then(|()| alignment(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out))
                .and_then(|()| {
                    result::get_matmul_algo_heuristic(
                        handle,
                        descriptors.operation,
                        descriptors.b,
                        descriptors.a,
                        descriptors.out,
                        descriptors.out,
                        preference,
                    )
                    .map_err(refused)
                });
        let _ = result::destroy_matmul_pref(preference);
        Ok(chosen?.algo)
    }
}

fn refused(error: result::CublasError) -> Error {
    error!(Gpu, "cuBLASLt: {:?}", error.0)
}
