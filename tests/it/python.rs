//! Runs the checks in `tests/python/` with the Python of `.venv`: the reference implementations live there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::testing::missing;

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs `tests/python/SCRIPT ARGUMENTS…`; it fails the test by a non-zero exit. Says so and returns false where there is no
/// `.venv`.
pub fn check(script: &str, arguments: &[&str]) -> bool {
    let Some(output) = output_of(&format!("tests/python/{script}"), arguments) else { return false };
    print!("{output}");
    true
}

/// The output of a script of the repository; a non-zero exit fails the test. `None`, after saying so, where there is no
/// `.venv`.
pub fn output_of(script: &str, arguments: &[&str]) -> Option<String> {
    let python = repository(".venv/bin/python");
    if !python.exists() {
        missing(".venv is not here; run scripts/setup.sh");
        return None;
    }
    let output = Command::new(python)
        .arg(repository(script))
        .args(arguments)
        .env("TRANSFORMERS_VERBOSITY", "error")
        .env("HF_HUB_OFFLINE", "1")
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("Python starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script} {arguments:?} failed:\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    Some(text(&output.stdout))
}

/// A path as `&str`, for arguments.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
