//! A large matrix: in memory, or in a file of which the system keeps in memory what there is room for.

use std::io;
use std::path::Path;

use memmap2::MmapMut;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::{FileError, is_closed};

/// Why a map can be seen as a matrix: it begins at a page and has exactly these values.
const SIZE: &str = "the file was made for this matrix";

/// Float32 values, `[rows, columns]`.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Memory(Array2<f32>),
    File(MmapMut),
}

impl Matrix {
    /// Zeros in a file in `folder`, or where that cannot be written, in the folder of temporary files. The file has no name, and is
    /// gone when the matrix is, or its process.
    ///
    /// # Errors
    /// If there is no room for the file.
    pub fn zeros_in_file(folder: &Path, rows: usize, columns: usize) -> Result<Self, FileError> {
        Self::in_file(folder, rows, columns).or_else(|error| match is_closed(&error.source) {
            true => Self::in_file(&std::env::temp_dir(), rows, columns),
            false => Err(error),
        })
    }

    fn in_file(folder: &Path, rows: usize, columns: usize) -> Result<Self, FileError> {
        let map = || -> io::Result<MmapMut> {
            let file = tempfile::tempfile_in(folder)?;
            // Memory is promised for what is written to a map: a full disk would end the process there. So the space is taken now.
            allocate(&file, (4 * rows * columns) as u64)?;
            // SAFETY: nobody else can open the file.
            unsafe { MmapMut::map_mut(&file) }
        };
        let map = map().map_err(FileError::new("write", folder))?;
        Ok(Matrix { rows, columns, values: Values::File(map) })
    }

    /// The values, `[rows, columns]`.
    pub fn view(&self) -> ArrayView2<'_, f32> {
        match &self.values {
            Values::Memory(values) => values.view(),
            Values::File(map) => {
                ArrayView2::from_shape((self.rows, self.columns), bytemuck::cast_slice(map)).expect(SIZE)
            }
        }
    }

    /// The values, to write them.
    pub fn view_mut(&mut self) -> ArrayViewMut2<'_, f32> {
        let shape = (self.rows, self.columns);
        match &mut self.values {
            Values::Memory(values) => values.view_mut(),
            Values::File(map) => ArrayViewMut2::from_shape(shape, bytemuck::cast_slice_mut(map)).expect(SIZE),
        }
    }

    /// Number of rows.
    pub fn nrows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn ncols(&self) -> usize {
        self.columns
    }
}

impl From<Array2<f32>> for Matrix {
    fn from(values: Array2<f32>) -> Self {
        let (rows, columns) = values.dim();
        Matrix { rows, columns, values: Values::Memory(values) }
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &std::fs::File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is that of an open file; the call changes no memory.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &std::fs::File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_in_a_file_holds_what_it_holds_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut matrices = [Matrix::from(Array2::zeros((70, 33))), Matrix::in_file(folder.path(), 70, 33).unwrap()];
        assert_eq!(matrices[1].view(), Array2::<f32>::zeros((70, 33)));
        for matrix in &mut matrices {
            matrix
                .view_mut()
                .indexed_iter_mut()
                .for_each(|((row, column), value)| *value = (row * 100 + column) as f32);
        }
        let [memory, file] = &matrices;
        assert_eq!(memory.view(), file.view());
        assert_eq!((file.nrows(), file.ncols()), (70, 33));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        let empty = Matrix::in_file(folder.path(), 0, 33);
        assert!(empty.is_err() || empty.unwrap().view().is_empty());
        assert!(Matrix::in_file(&folder.path().join("nothing"), 1, 1).is_err());
    }
}
