//! Copying a large term takes as long as Python takes to make it, and no scheduler has that long (I8): a NIF that
//! would copy one runs again, on a dirty CPU scheduler. Small ones, nearly all, cost a look at their parts.

use crate::base::config::{COPIED_PARTS_MAX, COPIED_TEXT_BYTES_MAX};
use rustler::codegen_runtime::inventory;
use rustler::schedule::{SchedulerFlags, consume_timeslice};
use rustler::sys::{enif_get_tuple, enif_schedule_nif, enif_thread_type};
use rustler::types::map::MapIterator;
use rustler::{Env, Nif, Term, TermType};
use std::ffi::{CStr, c_int};
use std::ptr;

/// What `enif_thread_type` says of a scheduler that is not dirty.
const NORMAL_SCHEDULER: c_int = 1;

/// The parts of an integer of more than 64 bits: nobody tells how long it is.
const BIG_INTEGER_PARTS: usize = COPIED_PARTS_MAX / 32;

/// How much of its time slice the largest term that is copied at once costs the caller.
const TIMESLICE_PERCENT: usize = 25;

/// How many parts `terms` have, but no more than `max`, which is also how many are looked at.
fn parts(terms: &[Term<'_>], max: usize) -> usize {
    let mut parts = 0;
    let mut terms = terms.iter().copied();
    let mut waiting = Vec::new();
    while let Some(term) = waiting.pop().or_else(|| terms.next()) {
        parts += 1;
        match term.get_type() {
            TermType::List => {
                if let Ok((head, tail)) = term.list_get_cell() {
                    waiting.extend([tail, head]);
                }
            }
            TermType::Tuple => match elements(&term, max - parts.min(max)) {
                Some(elements) => waiting.extend(elements),
                None => return max,
            },
            TermType::Map => {
                let room = max - parts.min(max);
                if term.map_size().is_ok_and(|size| size > room) {
                    return max;
                }
                waiting.extend(MapIterator::new(term).into_iter().flatten().flat_map(|(key, value)| [key, value]));
            }
            TermType::Integer if term.decode::<i64>().is_err() && term.decode::<u64>().is_err() => {
                parts += BIG_INTEGER_PARTS;
            }
            // What it has of its surroundings is hidden.
            TermType::Fun => return max,
            _ => {}
        }
        if parts + waiting.len() >= max {
            return max;
        }
    }
    parts
}

/// The elements of a tuple, unless they are more than `max`.
fn elements<'a>(tuple: &Term<'a>, max: usize) -> Option<impl Iterator<Item = Term<'a>>> {
    let env = tuple.get_env();
    let (mut arity, mut first) = (0, ptr::null());
    // SAFETY: I10: the VM says where the elements are, which live as long as `env`.
    let elements = unsafe {
        match enif_get_tuple(env.as_c_arg(), tuple.as_c_arg(), &raw mut arity, &raw mut first) {
            0 => &[],
            _ if arity == 0 => &[],
            _ => std::slice::from_raw_parts(first, usize::try_from(arity).unwrap_or(0)),
        }
    };
    // SAFETY: I10: they are terms of `env`.
    (elements.len() <= max).then(|| elements.iter().map(move |element| unsafe { Term::new(env, *element) }))
}

/// Whether so much is too much to be copied here.
fn is_too_much(env: Env<'_>, parts: usize) -> bool {
    // SAFETY: I10: asks about the calling thread only.
    if unsafe { enif_thread_type() } != NORMAL_SCHEDULER {
        return false;
    }
    let percent = parts.min(COPIED_PARTS_MAX) * TIMESLICE_PERCENT / COPIED_PARTS_MAX;
    if percent > 0 {
        consume_timeslice(env, i32::try_from(percent).unwrap_or(1));
    }
    parts >= COPIED_PARTS_MAX
}

/// The parts of `term`, as far as they are needed for [`parts_elsewhere`].
pub fn parts_of(term: Term<'_>) -> usize {
    parts(&[term], COPIED_PARTS_MAX)
}

/// To be returned by the NIF `name`, which was called with `args`, if it would copy `copied` on a scheduler: it is
/// called again, on a dirty one.
pub fn elsewhere<'a, const N: usize>(
    env: Env<'a>,
    name: &CStr,
    args: impl FnOnce() -> [Term<'a>; N],
    copied: &[Term<'a>],
) -> Option<Term<'a>> {
    parts_elsewhere(env, name, args, parts(copied, COPIED_PARTS_MAX))
}

/// As [`elsewhere`], for a NIF that would copy `text` besides, or find fault with it.
pub fn text_elsewhere<'a, const N: usize>(
    env: Env<'a>,
    name: &CStr,
    args: impl FnOnce() -> [Term<'a>; N],
    text: &[u8],
    copied: &[Term<'a>],
) -> Option<Term<'a>> {
    let of_text = text.len() / (COPIED_TEXT_BYTES_MAX / COPIED_PARTS_MAX);
    parts_elsewhere(env, name, args, of_text + parts(copied, COPIED_PARTS_MAX))
}

/// As [`elsewhere`], where the parts have been counted.
pub fn parts_elsewhere<'a, const N: usize>(
    env: Env<'a>,
    name: &CStr,
    args: impl FnOnce() -> [Term<'a>; N],
    parts: usize,
) -> Option<Term<'a>> {
    if !is_too_much(env, parts) {
        return None;
    }
    // SAFETY: I10: every name in the inventory is a C string that is never freed.
    let nif = inventory::iter::<Nif>().find(|nif| unsafe { CStr::from_ptr(nif.name) } == name)?;
    let args = args().map(|arg| arg.as_c_arg());
    let count = c_int::try_from(N).ok()?;
    let flags = SchedulerFlags::DirtyCpu as c_int;
    // SAFETY: on a scheduler, inside of a NIF, which returns at once what this returns (I8); the function takes what it
    // was called with, terms of `env`.
    Some(unsafe {
        Term::new(env, enif_schedule_nif(env.as_c_arg(), nif.name, flags, nif.raw_func, count, args.as_ptr()))
    })
}
