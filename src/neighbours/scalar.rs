//! The two number types of points.

/// `f32` or `f64`.
pub trait Scalar: sealed::Sealed + Copy + Send + Sync + PartialOrd + std::fmt::Debug + 'static {
    /// Distance from 1 to the next larger number of this type, as float64.
    const PRECISION: f64;

    /// Converts to float64 without loss.
    fn to_f64(self) -> f64;

    /// The value of this type nearest to `value`.
    fn from_f64(value: f64) -> Self;

    /// `(self − other) · scale` in float64, without overflow on the way.
    fn scaled_difference(self, other: Self, scale: f64) -> f64;

    /// The slice as float32; `None` for float64.
    fn as_single(values: &[Self]) -> Option<&[f32]>;
}

impl Scalar for f32 {
    const PRECISION: f64 = f32::EPSILON as f64;

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn scaled_difference(self, other: Self, scale: f64) -> f64 {
        (f64::from(self) - f64::from(other)) * scale
    }

    #[inline(always)]
    fn as_single(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }
}

impl Scalar for f64 {
    const PRECISION: f64 = f64::EPSILON;

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn scaled_difference(self, other: Self, scale: f64) -> f64 {
        self * scale - other * scale
    }

    #[inline(always)]
    fn as_single(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

mod sealed {
    /// Seals [`super::Scalar`]: the error bounds hold for these two types only.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}
