//! Links the library to the Python that `PYO3_PYTHON` names, so that it is found again without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_libpython_rpath_link_args();
    let config = pyo3_build_config::get();
    let executable = config.executable().unwrap_or("python3");
    if config.is_free_threaded() {
        println!(
            "cargo::error={executable} cannot be used: it is a free-threaded build. The receive buffers are laid out as \
             objects of a Python with a GIL, and the GIL guards what threads share. Set PYO3_PYTHON=/path/to/python3 to \
             use another."
        );
        return;
    }
    println!("cargo:rustc-env=PY_REACTOR_PYTHON={executable}");
    let lib_dir = config.lib_dir().unwrap_or_default();
    println!("cargo:rustc-env=PY_REACTOR_PYTHON_LIBDIR={lib_dir}");
    let version = config.version();
    println!("cargo:rustc-env=PY_REACTOR_PYTHON_VERSION={version}");
    let rustc = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .arg("--version")
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        .unwrap_or_default();
    println!("cargo:rustc-env=PY_REACTOR_RUSTC={rustc}");
}
