//! Loops compiled for the widest vectors that the processor has.

/// Defines a function that is compiled three times, for AVX-512, for AVX2 and for every processor, and runs the widest
/// version that the processor has and the environment allows. Results do not depend on the version: nothing is contracted or reordered.
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
                let allowed = $crate::neighbours::simd::isa::Vectors::allowed();
                if allowed.avx512 {
                    // SAFETY: the processor has the feature.
                    return unsafe { avx512($($argument),*) };
                }
                if allowed.avx2 {
                    // SAFETY: the processor has the feature.
                    return unsafe { avx2($($argument),*) };
                }
            }
            anywhere($($argument),*)
        }
    };
}

pub(in crate::neighbours) use for_widest_vectors;
