//! The main interpreter: started once, on a thread of its own that lives as long as the VM, and never finalised. That
//! thread also makes the interpreters of contexts that have one of their own.

use crate::base::gil;
use crate::mail::running::receive_raised;
use crate::python::audit;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{CStr, CString, c_char, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// `sys.executable` of the interpreter that this library was built against.
const EXECUTABLE: &str = env!("PY_REACTOR_PYTHON");
const LIB_DIR: &str = env!("PY_REACTOR_PYTHON_LIBDIR");

/// What the thread of the main interpreter runs, attached.
type Errand = Box<dyn FnOnce() + Send>;

static MAIN: OnceLock<Result<Sender<Errand>, String>> = OnceLock::new();

/// A module that every interpreter can import: its name, and what makes it.
pub type Builtin = (&'static CStr, extern "C" fn() -> *mut ffi::PyObject);

static BUILTIN: OnceLock<Builtin> = OnceLock::new();

/// Names the built-in module, before the main interpreter is started.
pub fn provide(builtin: Builtin) {
    let _ = BUILTIN.set(builtin);
}

/// Starts the main interpreter if nobody has done so yet.
///
/// # Errors
/// Python's own words on why it does not start.
pub fn ensure_started() -> Result<(), String> {
    MAIN.get_or_init(start).as_ref().map(drop).map_err(Clone::clone)
}

/// Runs `f` on the thread of the main interpreter, attached to it.
///
/// # Errors
/// The main interpreter does not start.
pub fn on_main_thread<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
    let errands = MAIN.get_or_init(start).as_ref().map_err(Clone::clone)?;
    let (sender, receiver) = mpsc::channel();
    let errand = Box::new(move || drop(sender.send(f())));
    errands.send(errand).map_err(|_| LOST.to_owned())?;
    receiver.recv().map_err(|_| LOST.to_owned())
}

/// Does what the end of a Python program does, in the main interpreter, if there is one: see `pause_program` of
/// `erlang/_ending.py`. Python code that takes longer than `patience` is interrupted. Answers whether it has ended.
pub fn pause_program(patience: Duration) -> bool {
    let Some(Ok(errands)) = MAIN.get() else { return true };
    let running = Arc::new(AtomicBool::new(true));
    let (sender, receiver) = mpsc::channel();
    let runs = Arc::clone(&running);
    let errand = Box::new(move || {
        Python::attach(|py| {
            let ending = py.import("erlang._ending");
            // Without the package nobody has used this interpreter.
            if let Ok(Err(error)) = ending.map(|ending| ending.call_method0("pause_program").map(drop)) {
                error.write_unraisable(py, None);
            }
            runs.store(false, Ordering::Relaxed);
            // An interrupt that came too late must reach nothing else.
            receive_raised(py);
        });
        let _ = sender.send(());
    });
    if errands.send(errand).is_err() || receiver.recv_timeout(patience).is_ok() {
        return true;
    }
    // Each ends one function; there may be several.
    (0..INTERRUPTS).any(|_| {
        interrupt_main(&running);
        receiver.recv_timeout(INTERRUPT_PAUSE) != Err(RecvTimeoutError::Timeout)
    })
}

/// How often what takes too long at the end is interrupted, and how much time it gets then.
const INTERRUPTS: u32 = 10;
const INTERRUPT_PAUSE: Duration = Duration::from_millis(100);

/// Raises `KeyboardInterrupt` in what the thread of the main interpreter runs, as long as that is `running`. It may have
/// to wait for the GIL, so this does not wait for it.
fn interrupt_main(running: &Arc<AtomicBool>) {
    let running = Arc::clone(running);
    let _ = std::thread::Builder::new().name("py_interrupt".into()).spawn(move || {
        let wait = gil::Wait::begin();
        // SAFETY: I7: the main interpreter is never finalised. The state is this thread's, used here only. Attached, so that
        // what is running stays so between the look and the exception.
        unsafe {
            let state = ffi::PyThreadState_New(ffi::PyInterpreterState_Main());
            if state.is_null() {
                return;
            }
            ffi::PyEval_RestoreThread(state);
            drop(wait);
            if running.load(Ordering::Relaxed) {
                ffi::PyThreadState_SetAsyncExc(MAIN_THREAD.load(Ordering::Relaxed), ffi::PyExc_KeyboardInterrupt);
            }
            ffi::PyThreadState_Clear(state);
            ffi::PyThreadState_DeleteCurrent();
        }
    });
}

/// Python's number of the thread of the main interpreter.
static MAIN_THREAD: AtomicI64 = AtomicI64::new(0);

const LOST: &str = "the thread of the main Python interpreter gave no answer: a panic in py_reactor, please report it";

fn start() -> Result<Sender<Errand>, String> {
    share_python()?;
    let (sender, receiver) = mpsc::channel();
    let (errands, to_do) = mpsc::channel::<Errand>();
    // Python counts this thread as its main thread, so it must stay.
    std::thread::Builder::new()
        .name("py_main".into())
        .stack_size(crate::base::config::STACK_BYTES)
        .spawn(move || {
            let state = match initialise() {
                Ok(state) => state,
                Err(why) => return drop(sender.send(Err(why))),
            };
            let _ = sender.send(Ok(()));
            for errand in to_do {
                // SAFETY: I7: this thread's own state, saved whenever no errand runs. A panic must not end the thread,
                // which would keep the GIL for ever; whoever waits for the errand hears of it.
                unsafe {
                    let wait = gil::Wait::begin();
                    ffi::PyEval_RestoreThread(state);
                    drop(wait);
                    let _ = catch_unwind(AssertUnwindSafe(errand));
                    ffi::PyEval_SaveThread();
                }
            }
        })
        .map_err(|error| format!("no thread for Python: {error}"))?;
    receiver.recv().map_err(|_| LOST.to_owned())??;
    Ok(errands)
}

/// Keeps this library loaded: Python and our threads point into it for ever.
pub fn pin_library() -> bool {
    path_of(pin_library as *const ()).is_some_and(|this| is_open(&this, libc::RTLD_NODELETE))
}

/// Makes libpython's symbols global, which extension modules take for granted but a library of the VM does not get.
fn share_python() -> Result<(), String> {
    let python = path_of(ffi::Py_IsInitialized as *const ()).ok_or("libpython is not loaded")?;
    if is_open(&python, libc::RTLD_GLOBAL) {
        return Ok(());
    }
    Err(format!("cannot make the symbols of {} global ({LIB_DIR})", python.to_string_lossy()))
}

/// The library that `address` lies in.
fn path_of(address: *const ()) -> Option<CString> {
    // SAFETY: I10: `dladdr` fills in a struct of our own, whose name is a string of the loader's.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(address.cast(), &raw mut info) != 0 && !info.dli_fname.is_null();
        found.then(|| CStr::from_ptr(info.dli_fname).to_owned())
    }
}

/// Opens a library that is loaded once more, in another way and for good.
fn is_open(path: &CStr, how: i32) -> bool {
    // SAFETY: I10: a string; the handle is meant to stay open.
    !unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | how) }.is_null()
}

fn initialise() -> Result<*mut ffi::PyThreadState, String> {
    let executable = CString::new(executable()).map_err(|_| "NUL in the path of Python")?;
    // SAFETY: I10: the documented order: hook, built-in modules, configuration, initialisation; strings are
    // NUL-terminated and copied by Python; the configuration is cleared at the end.
    unsafe {
        if ffi::Py_IsInitialized() != 0 {
            return Err("another library of this VM, or another build of this one, has already started Python, which \
                        starts once in a process: restart the VM"
                .into());
        }
        audit::install()?;
        hear_of_children();
        let (name, init) = BUILTIN.get().ok_or("the built-in module was not provided")?;
        ffi::PyImport_AppendInittab(name.as_ptr(), Some(*init));
        let mut config = std::mem::zeroed::<ffi::PyConfig>();
        ffi::PyConfig_InitPythonConfig(&raw mut config);
        // The VM handles signals; nobody flushes stdout for us; the VM's arguments are not Python's.
        config.install_signal_handlers = 0;
        config.buffered_stdio = 0;
        config.parse_argv = 0;
        let set = |config: *mut ffi::PyConfig, field: *mut *mut libc::wchar_t| {
            ffi::PyConfig_SetBytesString(config, field, executable.as_ptr())
        };
        let mut status = set(&raw mut config, &raw mut config.program_name);
        if ffi::PyStatus_Exception(status) == 0 {
            status = set(&raw mut config, &raw mut config.executable);
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(&raw const config);
        }
        ffi::PyConfig_Clear(&raw mut config);
        if ffi::PyStatus_Exception(status) != 0 {
            return Err(format!("Python does not start: {}", text(status.err_msg)));
        }
        import_signal();
        MAIN_THREAD.store(ffi::PyThread_get_thread_ident() as c_long, Ordering::Relaxed);
        // CPython marks the definition once: here, where no other interpreter can do so at the same time.
        init();
        Ok(ffi::PyEval_SaveThread())
    }
}

/// Imports `signal` before anybody else does: wherever SIGINT has its default action, the import would replace it by
/// Python's handler, whatever the configuration says. It is the VM's (B7).
///
/// # Safety
/// Attached.
unsafe fn import_signal() {
    // SAFETY: I10: valid pointers to locals; the disposition is put back. A failed import will fail again where it
    // matters.
    unsafe {
        let mut ignore: libc::sigaction = std::mem::zeroed();
        ignore.sa_sigaction = libc::SIG_IGN;
        let mut before = std::mem::zeroed();
        libc::sigaction(libc::SIGINT, &raw const ignore, &raw mut before);
        ffi::Py_XDECREF(ffi::PyImport_ImportModule(c"signal".as_ptr()));
        ffi::PyErr_Clear();
        libc::sigaction(libc::SIGINT, &raw const before, ptr::null_mut());
    }
}

/// Has the kernel keep the exit status of a child until it is asked for. The VM has it thrown away, by ignoring SIGCHLD, but
/// asks for none itself: its ports' programs are children of `erl_child_setup`, and it hears of them by a socket. Python
/// does ask. The default action does nothing either, and interrupts no system call.
fn hear_of_children() {
    // SAFETY: I10: pointers to locals. A handler that somebody has installed stays.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGCHLD, ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = 0;
            libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut());
        }
    }
}

/// The interpreter to be: a virtual environment's, if the VM was started in one of this version. (`py_reactor_app` logs
/// what is wrong with another.)
fn executable() -> String {
    let version = concat!("python", env!("PY_REACTOR_PYTHON_VERSION"));
    std::env::var_os("VIRTUAL_ENV")
        .map(PathBuf::from)
        .filter(|venv| venv.join("pyvenv.cfg").is_file() && venv.join("lib").join(version).is_dir())
        .map_or_else(|| EXECUTABLE.to_owned(), |venv| venv.join("bin/python3").to_string_lossy().into_owned())
}

/// A message of CPython's.
pub fn text(message: *const c_char) -> String {
    if message.is_null() {
        return "no reason given".into();
    }
    // SAFETY: I10: Python's messages are NUL-terminated and static.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errand_that_panics_costs_no_other() {
        provide(crate::module::BUILTIN);
        let lost = on_main_thread(|| {
            if Python::attach(|_| true) {
                panic!("as if by mistake");
            }
        });
        assert_eq!(lost, Err(LOST.to_owned()));
        assert_eq!(on_main_thread(|| Python::attach(|_| 42)), Ok(42));
    }
}
