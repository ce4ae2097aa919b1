//! Everything that touches the Python interpreter. All of it runs attached, on a reactor thread, but for what other
//! Python threads call through the module `_py_reactor` (I7).

pub mod addresses;
pub mod audit;
pub mod boxed;
pub mod bytes_like;
pub mod describe;
pub mod frames;
pub mod glue;
pub mod instance;
pub mod interpreter;
pub mod methods;
pub mod own_attributes;
pub mod reactor_buffer;
pub mod sockets;
pub mod subinterpreter;
pub mod terms;
pub mod trashcan;
pub mod types;
pub mod variables;
