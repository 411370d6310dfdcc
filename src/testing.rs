//! What a test does that needs something that is not here.

/// Says that a test is skipped for want of something that `scripts/setup.sh` or `../shared` has. With `GELORA_REQUIRE_ALL=1`,
/// as `scripts/test.sh` sets it where these are, the test fails.
pub fn missing(what: &str) {
    assert!(std::env::var_os("GELORA_REQUIRE_ALL").is_none_or(|value| value != "1"), "missing: {what}");
    println!("skipped: {what}");
}

/// A file or folder of `../shared`, or nothing where that is missing.
pub fn shared(path: &str) -> Option<std::path::PathBuf> {
    let found = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !found.exists() {
        missing("../shared is not here");
        return None;
    }
    Some(found)
}
