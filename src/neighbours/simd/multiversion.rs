//! Loops compiled for the widest vectors that the processor has.

/// Defines a function that is compiled three times, for AVX-512, for AVX2 and for every processor, and runs the widest
/// version available. Results do not depend on the version: nothing is contracted or reordered.
macro_rules! for_widest_vectors {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        $body:block
    ) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn anywhere $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
                    anywhere($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
                    anywhere($($argument),*)
                }
                if $crate::neighbours::simd::multiversion::has_avx512() {
                    // SAFETY: the feature was just detected.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature was just detected.
                    return unsafe { avx2($($argument),*) };
                }
            }
            anywhere($($argument),*)
        }
    };
}

pub(in crate::neighbours) use for_widest_vectors;

/// Whether the processor has the parts of AVX-512 that every processor with AVX-512 has had since 2017.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(in crate::neighbours) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}
