//! Tells the loader where libtorch lies: where it was found while building (not for a package), and beside the installed binary.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_TRAIN").is_none() {
        return;
    }
    println!("cargo:rerun-if-env-changed=GELORA_PACKAGE");
    let in_package = std::env::var_os("GELORA_PACKAGE").is_some();
    if let (Ok(libtorch), false) = (std::env::var("LIBTORCH"), in_package) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN:$ORIGIN/lib:$ORIGIN/libtorch/lib:$ORIGIN/../lib");
}
