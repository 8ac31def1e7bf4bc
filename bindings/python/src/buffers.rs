//! Memory for frames: arrays that are lent to Python and taken again once nobody there holds them, and the caller's.
//!
//! A fresh array of a frame's size costs more than the copy into it, in pages that the kernel has to give. So a reader
//! keeps a few; an array is used again only where its count of references says that this reader alone has it: views,
//! buffers and whatever else refers to it hold it too.

use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray1, PyArray3, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

/// Arrays that a reader keeps: one that is looked at, one that is taken, one to spare. At most 33 MB each.
const KEPT: usize = 3;

/// The arrays that a reader has lent.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Lent>>);

#[derive(Debug)]
struct Lent {
    array: Py<PyArray1<u8>>,
    /// What Python counts while nobody else holds it.
    alone: isize,
}

impl Lent {
    fn is_free(&self, py: Python<'_>) -> bool {
        references(self.array.bind(py)).is_ok_and(|count| count <= self.alone)
    }
}

/// How many references Python counts; asking adds the same number each time.
fn references(array: &Bound<'_, PyArray1<u8>>) -> PyResult<isize> {
    let py = array.py();
    py.import(intern!(py, "sys"))?.getattr(intern!(py, "getrefcount"))?.call1((array,))?.extract()
}

impl Pool {
    fn lent(&self) -> MutexGuard<'_, Vec<Lent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An array of `len` bytes that nobody else holds: one that came back, or a new one.
    ///
    /// It is out of the pool until it is [given back](Self::keep): two threads never get the same.
    pub(crate) fn take<'py>(&self, py: Python<'py>, len: usize) -> PyResult<Buffer<'py>> {
        // No call into Python happens under the lock: Python could run anything in between, this function too.
        let all = core::mem::take(&mut *self.lent());
        let mut found = None;
        let mut rest = Vec::with_capacity(all.len());
        for one in all {
            let fits = found.is_none() && one.array.bind(py).len() == len && one.is_free(py);
            if fits {
                found = Some(one);
            } else {
                rest.push(one);
            }
        }
        self.lent().append(&mut rest);
        if let Some(Lent { array, alone }) = found {
            return Ok(Buffer { array: array.into_bound(py), alone });
        }
        let array = PyArray1::zeros(py, [len], false);
        let alone = references(&array)?;
        Ok(Buffer { array, alone })
    }

    /// Keeps an array for later, also while Python holds it. Of too many, the oldest are left to Python.
    pub(crate) fn keep(&self, buffer: Buffer<'_>) {
        let kept = Lent { array: buffer.array.unbind(), alone: buffer.alone };
        let dropped: Vec<_> = {
            let mut lent = self.lent();
            lent.push(kept);
            let many = lent.len().saturating_sub(KEPT);
            lent.drain(..many).collect()
        };
        // Outside of the lock: the end of an array can call into Python.
        drop(dropped);
    }
}

/// An array that belongs to nobody else now.
#[derive(Debug)]
pub(crate) struct Buffer<'py> {
    array: Bound<'py, PyArray1<u8>>,
    alone: isize,
}

impl<'py> Buffer<'py> {
    /// Calls `read` with its bytes and without the interpreter.
    pub(crate) fn fill<T: Send>(&self, py: Python<'py>, read: impl FnOnce(&mut [u8]) -> T + Send) -> PyResult<T> {
        let mut borrow = self.array.try_readwrite().map_err(|error| PyValueError::new_err(error.to_string()))?;
        let bytes = borrow.as_slice_mut()?;
        Ok(py.detach(|| read(bytes)))
    }

    /// Its first bytes as a picture: a view, without a copy.
    pub(crate) fn picture(&self, height: usize, width: usize) -> PyResult<Bound<'py, PyArray3<u8>>> {
        let bytes = height * width * 4;
        if bytes == self.array.len() {
            return self.array.reshape([height, width, 4]);
        }
        let slice = pyo3::types::PySlice::new(self.array.py(), 0, bytes.cast_signed(), 1);
        self.array.get_item(slice)?.cast_into::<PyArray1<u8>>()?.reshape([height, width, 4])
    }
}

/// The caller's array: bytes, C order, writable, and nobody else's meanwhile.
pub(crate) struct Out<'py>(Bound<'py, PyArrayDyn<u8>>);

impl<'py> Out<'py> {
    pub(crate) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = object.cast::<PyArrayDyn<u8>>().map_err(|_| {
            let kind = object.getattr("dtype").map_or_else(|_| object.get_type().to_string(), |kind| kind.to_string());
            PyTypeError::new_err(format!("out has to be a numpy array of uint8, and is {kind}"))
        })?;
        let shape = array.shape();
        if shape.len() != 3 || shape.get(2) != Some(&4) {
            return Err(PyValueError::new_err(format!(
                "out has to have the shape (height, width, 4), and has {shape:?}"
            )));
        }
        if !array.is_c_contiguous() {
            return Err(PyValueError::new_err(
                "out has to be contiguous, in C order: numpy.ascontiguousarray makes such",
            ));
        }
        Ok(Self(array.clone()))
    }

    /// As [`Buffer::fill`].
    ///
    /// The exclusive borrow keeps every other extension away that asks numpy's borrow checker. Python code of another
    /// thread does not ask it; what such a thread writes meanwhile is mixed into the picture, as with any of numpy's
    /// own functions that release the interpreter.
    pub(crate) fn fill<T: Send>(&self, py: Python<'py>, read: impl FnOnce(&mut [u8]) -> T + Send) -> PyResult<T> {
        let mut borrow =
            self.0.try_readwrite().map_err(|error| PyValueError::new_err(format!("out cannot be written: {error}")))?;
        let bytes = borrow.as_slice_mut()?;
        Ok(py.detach(|| read(bytes)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Height and width.
    pub(crate) fn size(&self) -> (usize, usize) {
        match *self.0.shape() {
            [height, width, _] => (height, width),
            _ => (0, 0),
        }
    }

    pub(crate) fn picture(&self) -> PyResult<Bound<'py, PyArray3<u8>>> {
        Ok(self.0.clone().into_any().cast_into::<PyArray3<u8>>()?)
    }
}
