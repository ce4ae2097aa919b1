//! The inbox: what was taken in is handed out once, and the thread is woken for it; what was refused is not.

use crate::Model;
use crate::base::eventfd::Waiter;
use crate::base::token::ConnId;
use crate::inbox::{Class, Inbox, Queued, Refused, Signal};
use loom::sync::Arc;
use loom::thread;
use std::collections::{HashSet, VecDeque};

pub const MODELS: &[Model] = &[
    ("inbox: commands and signals arrive", commands_and_signals_arrive),
    ("inbox: nothing is lost at the end", nothing_is_lost_at_the_end),
    ("inbox: a close answers for what it took", a_close_answers_for_what_it_took),
    ("inbox: a kill is seen", a_kill_is_seen),
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Order {
    Work(u32),
    Stop,
}

impl Queued for Order {
    fn class(&self) -> Class {
        match self {
            Order::Work(_) => Class::Ordinary,
            Order::Stop => Class::Last,
        }
    }
}

fn connection(index: u32) -> ConnId {
    ConnId { index, generation: 0 }
}

/// The thread that the inbox belongs to, as `src/reactor/commands.rs` has it.
struct Reactor {
    inbox: Arc<Inbox<Order>>,
    waiter: Waiter,
    orders: VecDeque<Order>,
    signals: HashSet<(ConnId, Signal)>,
    killed: bool,
}

impl Reactor {
    fn new() -> Self {
        let inbox = Arc::new(Inbox::new().unwrap());
        let waiter = inbox.waiter().unwrap();
        Reactor { inbox, waiter, orders: VecDeque::new(), signals: HashSet::new(), killed: false }
    }

    /// One wake-up, and the turns that follow from it.
    fn turn(&mut self) {
        self.waiter.read();
        loop {
            self.killed |= self.inbox.open();
            let more = self.inbox.take_commands(&mut self.orders);
            for id in self.inbox.take_signals() {
                assert!(self.signals.insert(id), "a signal that was given once came twice");
            }
            if !more {
                return;
            }
        }
    }

    fn post(&self, orders: &'static [Order]) -> thread::JoinHandle<Vec<Order>> {
        let inbox = Arc::clone(&self.inbox);
        thread::spawn(move || orders.iter().copied().filter(|order| inbox.post(*order).is_ok()).collect())
    }
}

/// Posts from one thread, signals from another: all arrive, in order, and the thread never sleeps on them.
fn commands_and_signals_arrive() {
    let mut reactor = Reactor::new();
    let posted = reactor.post(&[Order::Work(1), Order::Work(2)]);
    let inbox = Arc::clone(&reactor.inbox);
    let signalled = thread::spawn(move || inbox.signal(connection(1), Signal::WriteReady));
    while reactor.orders.len() < 2 || reactor.signals.is_empty() {
        reactor.turn();
    }
    assert_eq!(reactor.orders, posted.join().unwrap());
    signalled.join().unwrap();
}

/// A stop among posts of others: every order that was answered `ok` is handed out once, all before the stop.
fn nothing_is_lost_at_the_end() {
    let mut reactor = Reactor::new();
    let work = reactor.post(&[Order::Work(1), Order::Work(2)]);
    let stop = reactor.post(&[Order::Stop]);
    while reactor.orders.back() != Some(&Order::Stop) {
        reactor.turn();
    }
    // The thread ends, as in `src/reactor/thread.rs`.
    reactor.orders.extend(reactor.inbox.close());
    let mut accepted = work.join().unwrap();
    accepted.extend(stop.join().unwrap());
    assert_eq!(reactor.orders, accepted);
    assert_eq!(reactor.inbox.post(Order::Work(3)), Err((Refused::Stopped, Order::Work(3))));
}

/// The thread ends by itself: what it did not take, the close does; what came later was refused.
fn a_close_answers_for_what_it_took() {
    let mut reactor = Reactor::new();
    let first = reactor.post(&[Order::Work(1), Order::Work(2)]);
    let second = reactor.post(&[Order::Work(3)]);
    reactor.inbox.take_commands(&mut reactor.orders);
    reactor.orders.extend(reactor.inbox.close());
    let mut accepted = first.join().unwrap();
    accepted.extend(second.join().unwrap());
    accepted.sort_unstable();
    reactor.orders.make_contiguous().sort_unstable();
    assert_eq!(reactor.orders, accepted);
}

/// The owner's death, while somebody else posts.
fn a_kill_is_seen() {
    let mut reactor = Reactor::new();
    let posted = reactor.post(&[Order::Work(1)]);
    let inbox = Arc::clone(&reactor.inbox);
    let killed = thread::spawn(move || inbox.kill());
    while !reactor.killed {
        reactor.turn();
    }
    reactor.orders.extend(reactor.inbox.close());
    assert_eq!(reactor.orders, posted.join().unwrap());
    killed.join().unwrap();
}
