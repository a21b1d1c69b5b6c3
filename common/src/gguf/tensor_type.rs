//! The types of tensors in a GGUF file, under ggml's names and numbers.

use std::fmt;

/// The type of a tensor's elements. All but the first three store blocks of elements with common scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// 32-bit floats.
    F32,
    /// IEEE half-precision floats.
    F16,
    /// The upper halves of 32-bit floats.
    BF16,
    /// 32 elements of 4 bits and a scale.
    Q4_0,
    /// 32 elements of 5 bits and a scale.
    Q5_0,
    /// 32 elements of 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 elements of 8 bits and a scale.
    Q8_0,
    /// 256 elements of 4 bits; each 32 have a scale and a minimum of 6 bits.
    Q4K,
    /// 256 elements of 5 bits; each 32 have a scale and a minimum of 6 bits.
    Q5K,
    /// 256 elements of 6 bits; each 16 have a scale of 8 bits.
    Q6K,
}

/// A type's number in files, its name, and how many elements and bytes a block has.
struct Layout {
    id: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
}

/// Every type.
pub(super) const ALL: [TensorType; 10] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

impl TensorType {
    fn layout(self) -> Layout {
        let (id, name, elements, bytes) = match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::BF16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 2 + 16),
            Self::Q5_0 => (6, "Q5_0", 32, 2 + 4 + 16),
            Self::Q5_1 => (7, "Q5_1", 32, 4 + 4 + 16),
            Self::Q8_0 => (8, "Q8_0", 32, 2 + 32),
            Self::Q4K => (12, "Q4_K", 256, 4 + 12 + 128),
            Self::Q5K => (13, "Q5_K", 256, 4 + 12 + 32 + 128),
            Self::Q6K => (14, "Q6_K", 256, 128 + 64 + 16 + 2),
        };
        Layout { id, name, elements, bytes }
    }

    /// The number that stands for the type in a file.
    pub(super) fn id(self) -> u32 {
        self.layout().id
    }

    /// The type of a number in a file; `None` where it is none of these.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The number of elements of a block, of which the columns of a tensor must be a multiple.
    pub fn block_elements(self) -> usize {
        self.layout().elements
    }

    /// The number of bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        self.layout().bytes
    }

    /// The number of bytes of `columns` elements, which must be whole blocks.
    pub fn row_bytes(self, columns: usize) -> usize {
        columns / self.block_elements() * self.block_bytes()
    }

    /// Whether elements are in blocks.
    pub fn is_quantized(self) -> bool {
        self.block_elements() > 1
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.layout().name)
    }
}

/// The name, shape and type of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// The dimensions, outermost first; files have them in the opposite order.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub kind: TensorType,
}

impl TensorInfo {
    /// The number of columns: the innermost dimension.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of bytes that the tensor takes, without padding; `None` where no file can have so many.
    pub fn size(&self) -> Option<u64> {
        let elements =
            self.shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64))?;
        (elements / self.kind.block_elements() as u64).checked_mul(self.kind.block_bytes() as u64)
    }
}
