//! What an event loop has opened by the driver: servers that accept, and connects. What follows is done in Python, by
//! `python/erlang/_openings.py`.

#![forbid(unsafe_code)]

use crate::base::numbers::NumberMap;
use crate::base::token::ConnId;
use crate::driver::openings;
use crate::driver::shared::Shared;
use crate::driver::{Arrival, Driver, Event, Opening, Outcome, Queue};
use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;

/// As many connections as are accepted at once: what else is to be done has its turn.
const ACCEPTED_AT_ONCE_MAX: usize = 16;

/// So many accepts in turns that follow one another are waited for in one place. Then others that wait for the same socket, loops of
/// other processes perhaps, have theirs, also where somebody comes turn after turn.
const ACCEPTS_IN_PLACE: u32 = 8;

/// One of them.
struct One {
    fd: RawFd,
    /// How many may be accepted at once; 0: it is a connect.
    most: usize,
    /// How many calls the next accept makes: what finds nobody costs as much as what does.
    batch: usize,
    /// The turn in which somebody came last.
    turn: u64,
    /// In how many turns, without a pause, somebody has come.
    crowded: u32,
    runs: bool,
}

impl One {
    /// So many have come in this turn.
    fn accepted(&mut self, count: usize, turn: u64) {
        let before = std::mem::replace(&mut self.turn, turn);
        self.crowded = if turn == before + 1 { self.crowded.wrapping_add(1) } else { 0 };
        // Where somebody comes turn after turn, there may be more.
        self.batch = if count == self.batch && self.crowded > 0 { (2 * count).min(self.most) } else { count };
        self.runs = false;
    }

    fn opening(&self) -> Opening {
        match self.most {
            0 => Opening::Connect,
            _ if self.crowded.is_multiple_of(ACCEPTS_IN_PLACE) => {
                Opening::Accept { most: self.batch, queue: Queue::Last }
            }
            _ => Opening::Accept { most: self.batch, queue: Queue::Kept },
        }
    }
}

/// What has become of one that is to be stopped.
pub enum Stopped {
    /// There was none.
    Unknown,
    /// Nothing of it is left.
    Now,
    /// The driver's thread has to do it.
    Later,
}

/// All of a loop's, by names that nothing else has.
#[derive(Default)]
pub struct Openings {
    all: RefCell<NumberMap<ConnId, One>>,
    /// Some may have to be begun.
    dirty: Cell<bool>,
    /// The number of the turn.
    turn: Cell<u64>,
    /// By whom, once that is known.
    driver: RefCell<Option<Shared>>,
    /// To be stopped, as soon as its own thread can.
    stopped: RefCell<Vec<ConnId>>,
}

impl Openings {
    /// From now on as many connections as `most` are accepted at a time, by the listening socket `fd`; 0: the end of a connect is
    /// awaited.
    pub fn add(&self, fd: RawFd, most: usize) -> ConnId {
        let id = openings::new_id();
        let most = most.min(ACCEPTED_AT_ONCE_MAX);
        self.all.borrow_mut().insert(id, One { fd, most, batch: 1, turn: 0, crowded: 0, runs: false });
        self.dirty.set(true);
        id
    }

    /// Whether it has not been stopped.
    pub fn has(&self, id: ConnId) -> bool {
        self.all.borrow().contains_key(&id)
    }

    /// From here on its descriptor may be closed, if this is the driver's thread; what is begun there only it can stop.
    pub fn stop(&self, id: ConnId) -> Stopped {
        let Some(one) = self.all.borrow_mut().remove(&id) else { return Stopped::Unknown };
        match &mut *self.driver.borrow_mut() {
            Some(driver) if driver.is_home() => {
                driver.stop_opening(id);
                while driver.arrival(id).is_some() {}
            }
            Some(_) if one.runs => {
                self.stopped.borrow_mut().push(id);
                self.dirty.set(true);
                return Stopped::Later;
            }
            _ => {}
        }
        Stopped::Now
    }

    /// Who begins and stops them from now on; nobody: all that run have ended, or will with their driver.
    pub fn drive_by(&self, driver: Option<&Shared>) {
        let mut before = self.driver.borrow_mut();
        if let (Some(before), Some(driver)) = (&*before, driver)
            && before.is(driver)
        {
            return;
        }
        *before = driver.cloned();
        self.stopped.borrow_mut().clear();
        self.all.borrow_mut().values_mut().for_each(|one| one.runs = false);
        self.dirty.set(true);
    }

    /// Begins those that do not run: at the end of a turn, so that whoever is busy takes nobody.
    pub fn begin(&self) {
        self.turn.set(self.turn.get() + 1);
        if !self.dirty.take() {
            return;
        }
        let Some(driver) = &mut *self.driver.borrow_mut() else { return };
        for id in self.stopped.take() {
            driver.stop_opening(id);
            while driver.arrival(id).is_some() {}
        }
        for (id, one) in self.all.borrow_mut().iter_mut().filter(|(_, one)| !one.runs) {
            one.runs = true;
            driver.open(*id, one.fd, one.opening());
        }
    }

    /// The driver has told of one. Answers who has arrived; `None`: nobody waits for it.
    pub fn ended(&self, Event { id, outcome }: Event) -> Option<Vec<Arrival>> {
        let mut arrivals = Vec::new();
        let mut all = self.all.borrow_mut();
        let one = all.get_mut(&id)?;
        match outcome {
            Outcome::Accepted(count) => {
                let driver = self.driver.borrow();
                let mut driver = driver.clone()?;
                arrivals.reserve(count as usize);
                arrivals.extend(std::iter::from_fn(|| driver.arrival(id)));
                one.accepted(count as usize, self.turn.get());
                self.dirty.set(true);
            }
            _ => drop(all.remove(&id)),
        }
        Some(arrivals)
    }

    /// Forgets all; what runs ends with its driver.
    pub fn clear(&self) {
        self.all.borrow_mut().clear();
        self.drive_by(None);
    }
}
