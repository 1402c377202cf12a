//! What llama.cpp was compiled for, which its safe interface does not tell.

use std::ffi::CStr;
use std::sync::OnceLock;

/// The instruction sets and other means that llama.cpp's kernels use here, as it lists them.
pub fn llama_system_info() -> &'static str {
    static INFO: OnceLock<String> = OnceLock::new();
    INFO.get_or_init(|| {
        // SAFETY: it wants nothing, and returns a string that ends with a zero and stays until the
        // next call. There is no other call, and nobody but the one thread that
        // `get_or_init` lets in makes this one.
        let text = unsafe { CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
        text.to_string_lossy().into_owned()
    })
}
