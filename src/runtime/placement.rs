//! The record of where operations run: how ONNX Runtime assigned the graph to its providers.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::fmt;

use ort::AsPointer;
use ort::sys::{OrtApi, OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtStatusPtr};

/// Which execution provider runs which operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Number of nodes by (provider, operator).
    pub nodes: BTreeMap<(String, String), usize>,
}

impl Placement {
    /// Number of matrix products (MatMul, Gemm, fused attention and their quantised variants) by provider.
    pub fn matrix_products(&self) -> BTreeMap<&str, usize> {
        let mut products = BTreeMap::new();
        for ((provider, operator), count) in &self.nodes {
            if operator.contains("MatMul") || operator.contains("Gemm") || operator.contains("Attention") {
                *products.entry(provider.as_str()).or_insert(0) += count;
            }
        }
        products
    }

    pub(super) fn of(session: &ort::session::Session) -> ort::Result<Self> {
        let api = ort::api();
        let mut subgraphs: *const *const OrtEpAssignedSubgraph = std::ptr::null();
        let mut count = 0;
        // SAFETY: the session is alive; both pointers are valid for writing. The session owns what is returned.
        let status = unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut count) };
        // SAFETY: ONNX Runtime has just returned this status.
        unsafe { ort::Error::result_from_status(status) }?;
        let mut nodes = BTreeMap::new();
        for index in 0..if subgraphs.is_null() { 0 } else { count } {
            // SAFETY: `subgraphs` holds `count` pointers that live as long as the session.
            unsafe { add_subgraph(api, *subgraphs.add(index), &mut nodes) }?;
        }
        Ok(Self { nodes })
    }
}

/// # Safety
/// `subgraph` must come from a live session.
unsafe fn add_subgraph(
    api: &OrtApi,
    subgraph: *const OrtEpAssignedSubgraph,
    nodes: &mut BTreeMap<(String, String), usize>,
) -> ort::Result<()> {
    // SAFETY: guaranteed by the caller.
    let provider = unsafe { text(api.EpAssignedSubgraph_GetEpName, subgraph) }?;
    let mut list: *const *const OrtEpAssignedNode = std::ptr::null();
    let mut count = 0;
    // SAFETY: guaranteed by the caller; both pointers are valid for writing.
    let status = unsafe { (api.EpAssignedSubgraph_GetNodes)(subgraph, &mut list, &mut count) };
    // SAFETY: ONNX Runtime has just returned this status.
    unsafe { ort::Error::result_from_status(status) }?;
    for index in 0..if list.is_null() { 0 } else { count } {
        // SAFETY: `list` holds `count` pointers that live as long as the session.
        let operator = unsafe { text(api.EpAssignedNode_GetOperatorType, *list.add(index)) }?;
        *nodes.entry((provider.clone(), operator)).or_insert(0) += 1;
    }
    Ok(())
}

/// # Safety
/// `object` must be alive and of the kind that `get` accepts.
unsafe fn text<T>(
    get: unsafe extern "system" fn(*const T, *mut *const c_char) -> OrtStatusPtr,
    object: *const T,
) -> ort::Result<String> {
    let mut pointer = std::ptr::null();
    // SAFETY: guaranteed by the caller; a null status means that `pointer` was written.
    unsafe { ort::Error::result_from_status(get(object, &mut pointer)) }?;
    // SAFETY: a string that ends with NUL and lives as long as `object`.
    Ok(if pointer.is_null() {
        String::new()
    } else {
        unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
    })
}

/// `CUDAExecutionProvider (73 matrix products), CPUExecutionProvider (1 matrix products)`; the most used comes first.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut products: Vec<(&str, usize)> = self.matrix_products().into_iter().collect();
        products.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if products.is_empty() {
            return f.write_str("none");
        }
        for (i, (provider, count)) in products.iter().enumerate() {
            write!(f, "{}{provider} ({count} matrix products)", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
