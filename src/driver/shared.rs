//! A driver that the reactor has together with those whose Python code runs in its turns: for what they cannot put off until the
//! turn is over, such as letting go of a descriptor that is about to be closed.

use crate::base::ear::Ear;
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::{Arrival, Driver, Event, Opening, Outcome, Payload, Target};
use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// One of the references to it, all on the reactor's thread (I1). No Python code runs while it is used.
#[derive(Clone)]
pub struct Shared {
    driver: Rc<RefCell<Box<dyn Driver>>>,
    home: ThreadId,
}

impl Shared {
    /// The first reference.
    pub fn new(driver: Box<dyn Driver>) -> Self {
        Shared { driver: Rc::new(RefCell::new(driver)), home: thread::current().id() }
    }

    /// Whether this is its thread.
    pub fn is_home(&self) -> bool {
        self.home == thread::current().id()
    }

    /// Whether both are of the same driver.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.driver, &other.driver)
    }
}

impl Driver for Shared {
    fn receive(&mut self, id: ConnId, target: Target) {
        self.driver.borrow_mut().receive(id, target);
    }

    unsafe fn send(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        // SAFETY: I2: the caller's promise.
        unsafe { self.driver.borrow_mut().send(id, target, payload) }
    }

    unsafe fn send_now(&mut self, target: Target, payload: Payload) -> Option<Outcome> {
        // SAFETY: I2: the caller's promise.
        unsafe { self.driver.borrow_mut().send_now(target, payload) }
    }

    unsafe fn send_at_once(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        // SAFETY: I2: the caller's promise.
        unsafe { self.driver.borrow_mut().send_at_once(id, target, payload) }
    }

    fn leave_input(&mut self, id: ConnId, left: bool) {
        self.driver.borrow_mut().leave_input(id, left);
    }

    fn receive_into(&mut self, id: ConnId, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
        self.driver.borrow_mut().receive_into(id, room)
    }

    fn receive_left(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        self.driver.borrow_mut().receive_left(id, pool, events);
    }

    fn cancel_receive(&mut self, id: ConnId) {
        self.driver.borrow_mut().cancel_receive(id);
    }

    fn cancel_send(&mut self, id: ConnId) {
        self.driver.borrow_mut().cancel_send(id);
    }

    fn listen(&mut self, id: ConnId, target: Target, ear: Ear) {
        self.driver.borrow_mut().listen(id, target, ear);
    }

    fn look(&mut self, quiet: &[ConnId]) {
        self.driver.borrow_mut().look(quiet);
    }

    fn watch(&mut self, fd: Option<RawFd>) {
        self.driver.borrow_mut().watch(fd);
    }

    fn open(&mut self, id: ConnId, fd: RawFd, opening: Opening) {
        self.driver.borrow_mut().open(id, fd, opening);
    }

    fn stop_opening(&mut self, id: ConnId) {
        self.driver.borrow_mut().stop_opening(id);
    }

    fn arrival(&mut self, id: ConnId) -> Option<Arrival> {
        self.driver.borrow_mut().arrival(id)
    }

    fn wait(&mut self, timeout: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        self.driver.borrow_mut().wait(timeout, pool, events)
    }

    fn shut_down(&mut self, deadline: Instant) -> bool {
        self.driver.borrow_mut().shut_down(deadline)
    }
}
