//! The connections of a context, in any order of events. Under test are the product's own files, those that are pure:
//! machine, table, token, buffers. Kernel, peers and Python are models that do what the fuzzer's bytes say.
//!
//! What holds after every step: all that the model of a connection asserts (I3, I4, B1, B3, B9); a buffer has one
//! owner (I2, asserted by the pool), and as many are lent as somebody holds; the name of a dead connection reaches nobody
//! (I6). In the end everything is closed, and every count is zero.

#![no_main]
#![allow(dead_code, reason = "the product's files have more than this needs")]

#[path = "../../src/base"]
mod base {
    pub mod ear;
    pub mod limits;
    pub mod sync;
    pub mod token;
}
#[path = "../../src/connection"]
mod connection {
    #[path = "machine/happening.rs"]
    pub mod happening;
    pub mod machine;
    pub mod table;
    #[path = "machine/world.rs"]
    pub mod world;
}
#[path = "../../src/buffer/pool.rs"]
mod pool;

use base::ear::Heard;
use base::token::{ConnId, Kind, Token};
use connection::happening::Happening;
use connection::machine::{Action, Directions, Task};
use connection::table::Table;
use connection::world::World;
use libfuzzer_sys::fuzz_target;
use pool::{Pool, return_from_any_thread};

const CONNECTIONS_MAX: usize = 8;
const BUFFERS: u16 = 6;
const TASKS: [Option<Task>; 4] = [None, Some(Task::InTurn), Some(Task::Message), Some(Task::Datagram)];
const ACTIONS: [Action; 5] =
    [Action::Continue, Action::WritePending, Action::ReadPending, Action::AsyncPending, Action::Close];

/// One context: its connections, its buffers, and what Python keeps of them.
struct Context {
    table: Table<World>,
    pool: Pool,
    hoard: Vec<u16>,
    hoards: bool,
    /// Returned by other threads, and not collected yet.
    returned: usize,
    dead: Vec<ConnId>,
}

impl Context {
    fn new() -> Self {
        let pool = Pool::new(BUFFERS, 64, || ()).expect("no memory for six buffers");
        Context { table: Table::default(), pool, hoard: Vec::new(), hoards: false, returned: 0, dead: Vec::new() }
    }

    /// Three bytes: what, to which connection, and how.
    fn step(&mut self, what: u8, which: u8, how: u8) {
        let flag = how & 1 != 0;
        let happening = match what % 36 {
            0 => Happening::Eof,
            1 => Happening::ReceiveError,
            2 => Happening::CancelAnswers { missed: flag },
            3 => Happening::Sent { part: how },
            4 => Happening::SendError,
            5 => Happening::Signalled,
            6 => Happening::LingerExpired,
            7 => Happening::Answer(ACTIONS[usize::from(how) % ACTIONS.len()]),
            8 => Happening::Writes(usize::from(how)),
            9 => Happening::Reads(flag),
            10 => Happening::SignalsItself(flag),
            11 => Happening::Killed,
            12 => Happening::Stopped,
            13 => Happening::Retired,
            24 => Happening::Message,
            25 => Happening::WritesObjects(flag),
            26 => Happening::Closed,
            27 => Happening::Heard([Heard::InputEnds, Heard::HungUp, Heard::Failed][usize::from(how) % 3]),
            28 => Happening::Awaits(TASKS[usize::from(how) % TASKS.len()]),
            29 => Happening::TaskBegins,
            30 => Happening::TaskEnds(how),
            31 => Happening::TasksGivenUp,
            32 => Happening::Buffers(flag),
            33 => Happening::Deaf,
            34 => Happening::EndsOutput,
            35 => Happening::SendsFirst(flag.then_some(how)),
            14..=16 => return self.receive(which, how),
            17..=18 => return self.open(how),
            19 => return self.return_here(),
            20 => return self.return_elsewhere(),
            21 => return self.collect(),
            22 => return self.hoards = flag,
            _ => return self.late(which),
        };
        if let Some(id) = self.choose(which) {
            self.happen(id, happening);
        }
    }

    fn choose(&self, which: u8) -> Option<ConnId> {
        let ids = self.table.ids();
        ids.get(usize::from(which) % ids.len().max(1)).copied()
    }

    fn open(&mut self, how: u8) {
        if self.table.len() < CONNECTIONS_MAX {
            let [readable, writable, half_closes, fails] = [1, 2, 4, 8].map(|bit| how & bit != 0);
            let id = self.table.insert(World::new(Directions { readable, writable, half_closes }, !fails));
            assert!(!self.dead.contains(&id), "I6: a name was used twice");
            self.bury(id);
        }
    }

    fn happen(&mut self, id: ConnId, happening: Happening) {
        let world = self.table.get(id).expect("chosen from the table");
        world.happen(happening);
        self.bury(id);
    }

    /// The kernel fills a buffer, if there is one; the token tells whose it is.
    fn receive(&mut self, which: u8, how: u8) {
        let Some(id) = self.choose(which) else { return };
        if !self.table.get(id).is_some_and(|world| world.is_receiving()) {
            return;
        }
        let Some((slot, _)) = self.pool.post() else { return };
        self.pool.reap(slot);
        let token = Token(Token::new(Kind::Receive, id).0);
        assert_eq!((token.kind(), token.id()), (Some(Kind::Receive), id));
        let lent = self.pool.may_lend();
        if lent {
            self.pool.lend(slot, 0);
        } else {
            self.pool.release(slot);
        }
        let bytes = 1 + usize::from(how >> 1) % 60;
        self.happen(id, Happening::Received { bytes, more: how & 1 != 0, buffer: lent.then_some(slot) });
    }

    /// Takes back what the connection is done with, and its slot if it is closed.
    fn bury(&mut self, id: ConnId) {
        let Some(world) = self.table.get(id) else { return };
        for slot in world.done_with() {
            if self.hoards {
                self.hoard.push(slot);
            } else {
                self.pool.give_back(slot);
            }
        }
        if world.is_closed() {
            assert_eq!(world.buffers(), 0);
            assert!(self.table.remove(id).is_some());
            self.dead.push(id);
        }
    }

    fn return_here(&mut self) {
        if let Some(slot) = self.hoard.pop() {
            self.pool.give_back(slot);
        }
    }

    fn return_elsewhere(&mut self) {
        if let Some(slot) = self.hoard.pop() {
            // SAFETY: lent, and not in the hoard any more.
            unsafe { return_from_any_thread(self.pool.key(), slot) };
            self.returned += 1;
        }
    }

    fn collect(&mut self) {
        self.pool.collect_returns();
        self.returned = 0;
    }

    /// An event of an operation that was cancelled when its connection ended.
    fn late(&mut self, which: u8) {
        if let Some(id) = self.dead.get(usize::from(which) % self.dead.len().max(1)) {
            let token = Token::new(Kind::CancelReceive, *id);
            assert!(self.table.get(token.id()).is_none(), "I6: a late event reached somebody");
            assert!(self.table.remove(token.id()).is_none());
        }
    }

    fn check(&mut self) {
        let ids = self.table.ids();
        assert_eq!(ids.len(), self.table.len());
        let waiting: usize = ids.iter().map(|id| self.table.get(*id).map_or(0, |world| world.buffers())).sum();
        assert_eq!(self.pool.usage().1, waiting + self.hoard.len() + self.returned, "I2: a lent buffer is nobody's");
    }

    fn end(mut self) {
        for id in self.table.ids() {
            self.table.get(id).expect("named by the table").end();
            self.bury(id);
        }
        assert!(self.table.len() == 0);
        self.collect();
        self.check();
        // What Python still holds outlives the pool, which goes with the last of it.
        let Context { mut pool, mut hoard, hoards, .. } = self;
        if !hoards {
            hoard.drain(..).for_each(|slot| pool.give_back(slot));
            assert_eq!(pool.usage().1, 0);
            assert_eq!(std::iter::from_fn(|| pool.post()).count(), usize::from(BUFFERS), "a buffer was lost");
        }
        let key = pool.key();
        drop(pool);
        // SAFETY: lent, each returned once.
        hoard.into_iter().for_each(|slot| unsafe { return_from_any_thread(key, slot) });
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut context = Context::new();
    for step in bytes.chunks_exact(3) {
        context.step(step[0], step[1], step[2]);
        context.check();
    }
    context.end();
});
