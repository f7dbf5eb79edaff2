//! Matrices of `f32`, handed to and fro between Burn's products and loops over slices
//! without a copy.

use std::ops::{Deref, DerefMut};

use albedo_core::{Error, ErrorKind, Result};
use burn::tensor::{Device, Tensor, TensorData};

/// A matrix `[rows, width]` on `device`, row by row.
pub(super) fn tensor(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / width, width];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// `a · b`.
pub(super) fn product(a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    a.clone().matmul(b.clone())
}

/// `a · bᵀ`: what a linear layer of weight `b`, `[out, in]`, makes of rows `a`.
pub(super) fn product_bt(a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    a.clone().matmul(b.clone().transpose())
}

/// `aᵀ · b`: the gradient `[out, in]` of a linear layer's weight, of the rows `a` that the
/// loss means for its results and its inputs `b`.
pub(super) fn product_at(a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    a.clone().transpose().matmul(b.clone())
}

/// Rows `from..to` of a matrix, which share its memory.
pub(super) fn rows_of(matrix: &Tensor<2>, from: usize, to: usize) -> Tensor<2> {
    let [_, width] = matrix.dims();
    matrix.clone().slice([from..to, 0..width])
}

/// The values of a matrix, row by row.
#[derive(Debug)]
pub(super) struct Values(TensorData);

impl Values {
    /// Takes the values of a matrix: without a copy where nobody else holds it.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn of(matrix: Tensor<2>) -> Result<Self> {
        let failed = |message: String| Error::new(ErrorKind::DeviceLost, super::OPERATION, message);
        let data = matrix.try_into_data().map_err(|error| failed(error.to_string()))?;
        if data.as_slice::<f32>().is_ok() {
            return Ok(Self(data));
        }
        // An allocation that does not begin at a multiple of four bytes.
        let shape = data.shape().clone();
        let values = data.try_into_vec::<f32>().map_err(|error| failed(error.to_string()))?;
        Ok(Self(TensorData::new(values, shape)))
    }

    /// The matrix again, on `device`.
    pub(super) fn into_tensor(self, device: &Device) -> Tensor<2> {
        Tensor::from_data(self.0, device)
    }
}

// The data type was checked when the values were taken.
impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_default()
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice().unwrap_or_default()
    }
}
