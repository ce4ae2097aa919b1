//! Everything that touches the Python interpreter. All of it runs attached, on a reactor thread, but for what other
//! Python threads call through the module `_py_reactor` (I7).

pub mod addresses;
pub mod audit;
pub mod bytes_like;
pub mod dispatch;
pub mod erlang_call;
pub mod interpreter;
pub mod jobs;
pub mod manual_io;
pub mod messages;
pub mod module;
pub mod notify;
pub mod protocol;
pub mod reactor_buffer;
pub mod running;
pub mod subinterpreter;
pub mod terms;
pub mod thread_context;
pub mod workspace;
