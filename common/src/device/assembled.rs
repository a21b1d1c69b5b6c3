//! A matrix that is computed a slice of rows at a time.

use super::Tensor;
use super::cuda::GpuTensor;
use crate::{Result, error};

/// The rows of a matrix that are known so far.
pub(crate) struct AssembledRows {
    shape: [usize; 2],
    values: Values,
}

enum Values {
    /// The rows that are known, on the host.
    Cpu(Vec<f32>),
    /// The whole matrix on a GPU, and the number of rows that are known.
    Cuda(GpuTensor, usize),
}

impl AssembledRows {
    /// No rows yet of a matrix with the shape and the device of `other`.
    pub(crate) fn like(other: &Tensor) -> Result<Self> {
        let (rows, columns) = other.matrix("rows to assemble")?;
        let values = match other {
            Tensor::Cpu(_) => Values::Cpu(Vec::with_capacity(rows * columns)),
            Tensor::Cuda(tensor) => Values::Cuda(GpuTensor::new(tensor.gpu(), other.shape())?, 0),
        };
        Ok(Self { shape: [rows, columns], values })
    }

    /// Adds the next rows.
    pub(crate) fn push(&mut self, rows: &Tensor) -> Result<()> {
        rows.expect("rows to assemble", &[rows.shape()[0], self.shape[1]])?;
        match &mut self.values {
            Values::Cpu(values) => values.extend_from_slice(&rows.host()?),
            Values::Cuda(whole, known) => {
                whole.write_rows(*known, rows.gpu()?)?;
                *known += rows.shape()[0];
            }
        }
        Ok(())
    }

    /// The matrix, of which all rows are known.
    pub(crate) fn finish(self) -> Result<Tensor> {
        let [rows, columns] = self.shape;
        let known = match &self.values {
            Values::Cpu(values) => values.len() / columns.max(1),
            Values::Cuda(_, known) => *known,
        };
        if known != rows {
            return Err(error!(Bug, "{rows} rows expected, found {known}"));
        }
        match self.values {
            Values::Cpu(values) => Tensor::from_vec(values, &self.shape),
            Values::Cuda(whole, _) => Ok(Tensor::Cuda(whole)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_a_matrix_make_it_again() {
        let whole = Tensor::from_vec((0..21).map(|value| value as f32).collect(), &[7, 3]).unwrap();
        let mut rows = AssembledRows::like(&whole).unwrap();
        for slice in [0..3, 3..3, 3..6] {
            rows.push(&whole.rows(slice).unwrap()).unwrap();
        }
        assert!(rows.push(&Tensor::from_vec(vec![0.0; 4], &[1, 4]).unwrap()).is_err(), "other columns");
        rows.push(&whole.rows(6..7).unwrap()).unwrap();
        let assembled = rows.finish().unwrap();
        assert_eq!(
            (assembled.shape(), assembled.to_vec().unwrap()),
            (whole.shape(), whole.to_vec().unwrap())
        );
        assert!(AssembledRows::like(&whole).unwrap().finish().is_err(), "rows are missing");
    }
}
