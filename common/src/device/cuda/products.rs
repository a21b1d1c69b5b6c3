//! Matrix products: cuBLASLt, its choice of algorithm kept for each shape.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaSlice, CudaStream};

use super::{Float16, Gpu, address, buffer_bytes, failed};
use crate::{Error, Result, error};

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Token counts that share an algorithm: multiples of this.
const SAME_ALGORITHM: usize = 64;

/// The number type of a product's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// The GPU's 16-bit numbers, rounded once from the f32 sum.
    Float16,
    /// The sum as it is.
    F32,
}

impl Precision {
    /// Of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A factor of 16-bit numbers in row-major memory.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// The first number's address.
    pub address: u64,
    /// Numbers from one row in memory to the next.
    pub stride: usize,
    /// Whether the rows in memory are the factor's columns.
    pub transposed: bool,
}

impl Factor {
    /// Rows in memory are rows of the factor.
    pub fn new(address: u64, stride: usize) -> Self {
        Self { address, stride, transposed: false }
    }

    /// The transposed factor.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// `out [M, N] = alpha·a [M, K]·b [K, N] + added [M, N] + bias [N]`.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// M, N and K.
    pub shape: [usize; 3],
    /// [M, K]
    pub a: Factor,
    /// [K, N]
    pub b: Factor,
    /// The address of the result.
    pub out: u64,
    /// Numbers from one row of the result to the next, and of what is added.
    pub out_stride: usize,
    /// Of the result.
    pub precision: Precision,
    /// Multiplies the product.
    pub alpha: f32,
    /// The address of what is added, in the result's precision; the result's own adds to what it holds.
    pub added: Option<u64>,
    /// [N] in 16 bits, added to each row.
    pub bias: Option<u64>,
}

/// All that an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    shape: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    alignments: [u32; 3],
    precision: Precision,
    adds: bool,
    bias: bool,
}

pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    algorithms: Mutex<HashMap<Key, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: the handle may be used from any thread; algorithms are plain data behind a lock.
#[allow(unsafe_code)]
unsafe impl Send for Products {}
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
    fn new(product: &Product, float16: Float16) -> Result<Self> {
        let [m, n, k] = product.shape;
        let narrow = float16.data_type();
        let f32 = sys::cudaDataType::CUDA_R_32F;
        let layout = |dtype, rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(dtype, columns as u64, rows as u64, stride as i64).map_err(refused)
        };
        let factor = |factor: &Factor, rows, columns| match factor.transposed {
            true => layout(narrow, columns, rows, factor.stride),
            false => layout(narrow, rows, columns, factor.stride),
        };
        let out = match product.precision {
            Precision::Float16 => narrow,
            Precision::F32 => f32,
        };
        let descriptors = Self {
            operation: result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)
                .map_err(refused)?,
            a: factor(&product.a, m, k)?,
            b: factor(&product.b, k, n)?,
            out: layout(out, m, n, product.out_stride)?,
        };
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let transposed = |factor: &Factor| i32::from(factor.transposed);
        descriptors.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed(&product.b))?;
        descriptors.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &transposed(&product.a))?;
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
    /// Runs a product on the stream that computes.
    pub fn product(&self, product: &Product) -> Result<()> {
        let [m, n, k] = product.shape;
        if m == 0 || n == 0 || k == 0 {
            return match product.added == Some(product.out) || m == 0 || n == 0 {
                true => Ok(()),
                false => Err(error!(Bug, "product of no columns")),
            };
        }
        self.bind()?;
        let descriptors = Descriptors::new(product, self.float16)?;
        let algorithm = self.algorithm(product)?;
        let beta: f32 = if product.added.is_some() { 1.0 } else { 0.0 };
        // SAFETY: descriptors live to the end of this function; addresses and strides are those of
        // live buffers, whose extents the op that calls has checked.
        #[allow(unsafe_code)]
        unsafe {
            result::matmul(
                self.products.handle,
                descriptors.operation,
                (&raw const product.alpha).cast(),
                (&raw const beta).cast(),
                product.b.address as *const c_void,
                descriptors.b,
                product.a.address as *const c_void,
                descriptors.a,
                product.added.unwrap_or(product.out) as *const c_void,
                descriptors.out,
                product.out as *mut c_void,
                descriptors.out,
                &raw const algorithm,
                address(&self.products.workspace) as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(refused)
        .map_err(|error| error.context(format!("product {m} x {n} x {k}")))
    }

    /// The library's first choice for this shape. Numbers of tokens differ from step to step, so
    /// the choice is made for the next multiple of [`SAME_ALGORITHM`] of M, and of K where a factor
    /// is transposed (the gradients of adapters sum over tokens).
    fn algorithm(&self, product: &Product) -> Result<sys::cublasLtMatmulAlgo_t> {
        let mut shape = product.shape;
        let tokens = if product.a.transposed { 2 } else { 0 };
        if shape[tokens] > SAME_ALGORITHM {
            shape[tokens] = shape[tokens].next_multiple_of(SAME_ALGORITHM);
        }
        let alignment = |address: u64| 1 << address.trailing_zeros().min(8);
        let key = Key {
            shape,
            strides: [product.a.stride, product.b.stride, product.out_stride],
            transposed: [product.a.transposed, product.b.transposed],
            alignments: [product.a.address, product.b.address, product.out | product.added.unwrap_or(0)]
                .map(alignment),
            precision: product.precision,
            adds: product.added.is_some(),
            bias: product.bias.is_some(),
        };
        let mut algorithms = self.products.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = algorithms.get(&key) {
            return Ok(*algorithm);
        }
        let rounded = Product { shape, ..*product };
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
