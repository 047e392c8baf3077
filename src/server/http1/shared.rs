//! What the HTTP/1.1 connections of a worker use in turn: a buffer to read into, room for heads, the date.

use std::cell::{Cell, RefCell, RefMut};

use http::HeaderMap;

use super::Worker;
use crate::http1::HttpDate;

/// The most that is read at once.
const SCRATCH: usize = 64 * 1024;
/// Empty maps and vectors that are kept for the next messages.
const SPARE_MAX: usize = 128;
/// Larger ones are not.
const MAP_MAX: usize = 64;
const ROOM_MAX: usize = 16 * 1024;

/// The shared things of one worker. Nobody holds any of them across an await.
pub(in crate::server) struct Http1Shared {
    scratch: RefCell<Box<[u8]>>,
    maps: RefCell<Vec<HeaderMap>>,
    rooms: RefCell<Vec<Vec<u8>>>,
    /// The date, and when it was last looked at on the worker's clock.
    date: Cell<Option<(u64, HttpDate)>>,
}

impl Default for Http1Shared {
    fn default() -> Self {
        Self {
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            maps: RefCell::default(),
            rooms: RefCell::default(),
            date: Cell::new(None),
        }
    }
}

impl Http1Shared {
    /// A buffer to read into; what is left of it has to be copied.
    pub(super) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    pub(super) fn take_map(&self) -> HeaderMap {
        self.maps.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map whose lines nobody needs any more.
    pub(super) fn give_map(&self, mut map: HeaderMap) {
        let mut maps = self.maps.borrow_mut();
        if map.capacity() > 0 && map.capacity() <= MAP_MAX && maps.len() < SPARE_MAX {
            map.clear();
            maps.push(map);
        }
    }

    pub(super) fn take_room(&self) -> Vec<u8> {
        self.rooms.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn give_room(&self, mut room: Vec<u8>) {
        let mut rooms = self.rooms.borrow_mut();
        if room.capacity() > 0 && room.capacity() <= ROOM_MAX && rooms.len() < SPARE_MAX {
            room.clear();
            rooms.push(room);
        }
    }

    /// Now, as `Date` says it. The wall is looked at once a tick of the worker's clock at most.
    pub(super) fn date(&self, worker: &Worker) -> HttpDate {
        let tick = worker.deadlines().millis();
        match self.date.get() {
            Some((looked, date)) if looked == tick => date,
            _ => {
                let date = HttpDate::new(worker.gateway().now());
                self.date.set(Some((tick, date)));
                date
            }
        }
    }
}
