//! The instruction set that the inner loops use: the fastest of the processor, or the one that `GELORA_SIMD` names.

use std::sync::OnceLock;

use crate::neighbours::NeighbourError;

/// Environment variable that names an instruction set.
const VARIABLE: &str = "GELORA_SIMD";

/// An instruction set that there are inner loops for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::neighbours) enum Isa {
    /// 512-bit vectors with products of bytes (VNNI); blocks hold panels of 16 rows, four columns at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with products of bytes; panels of 8 rows.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// 256-bit vectors; panels of 8 rows, whose codes are short.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 128-bit vectors with products of bytes; panels of 4 rows.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Row-major blocks; plain loops for the vectors that every processor of this architecture has.
    Scalar,
}

impl Isa {
    /// The fastest on this processor, or the one that the environment names.
    pub fn chosen() -> Result<Isa, NeighbourError> {
        let fastest = *Isa::all().first().expect("the plain loops are always there");
        Ok(forced()?.unwrap_or(fastest))
    }

    /// All instruction sets that this processor supports, the fastest first.
    pub fn all() -> Vec<Isa> {
        let mut found = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 {
                found.insert(0, Isa::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                found.insert(0, Isa::AvxVnni);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                found.insert(0, Isa::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found.insert(0, Isa::Neon);
        }
        found
    }

    /// The name in the environment variable.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Scalar => "scalar",
        }
    }

    fn named(name: &str) -> Result<Isa, NeighbourError> {
        let all = Isa::all();
        let wanted = all.iter().copied().find(|isa| isa.name() == name);
        wanted.ok_or_else(|| NeighbourError::InstructionSet {
            variable: VARIABLE,
            found: name.to_owned(),
            possible: all.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// The instruction set that the environment names; read once.
fn forced() -> Result<Option<Isa>, NeighbourError> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let read = || std::env::var_os(VARIABLE).map(|name| name.to_string_lossy().into_owned());
    NAME.get_or_init(read).as_deref().map(Isa::named).transpose()
}

/// Vectors that the loops of [`super::multiversion`] and of the projection may use.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::neighbours) struct Vectors {
    /// 512-bit vectors: the parts of AVX-512 that every processor with AVX-512 has had since 2017.
    pub avx512: bool,
    /// 256-bit vectors, and multiplication and addition in one.
    pub avx2: bool,
}

#[cfg(target_arch = "x86_64")]
impl Vectors {
    /// What the processor has and the environment allows.
    #[inline]
    pub fn allowed() -> Vectors {
        static ALLOWED: OnceLock<Vectors> = OnceLock::new();
        *ALLOWED.get_or_init(|| {
            let has = Vectors {
                avx512: is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl"),
                avx2: is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            };
            // A name that is not possible is an error before any of these loops matters.
            match forced().ok().flatten() {
                None | Some(Isa::Avx512) => has,
                Some(Isa::AvxVnni | Isa::Avx2) => Vectors { avx512: false, ..has },
                Some(Isa::Scalar) => Vectors { avx512: false, avx2: false },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_sets_have_names_and_others_are_errors() {
        for isa in Isa::all() {
            assert_eq!(Isa::named(isa.name()).unwrap(), isa);
        }
        for name in ["", "sse9", "AVX2"] {
            let error = Isa::named(name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("GELORA_SIMD is {name:?}")) && error.contains("scalar"), "{error}");
        }
    }
}
