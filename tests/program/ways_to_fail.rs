//! The table of all public ways to fail: kind, fault, reach, retry, exit code.

use std::path::Path;
use std::time::Duration;

use albedo::cli::Exit;
use albedo::overflow::{Overflow, Place, Step};
use albedo::{Artefact, Error, ErrorKind, Fault, Reach, Retry, Side};

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "do it", "no")
}

fn io(kind: std::io::ErrorKind) -> Error {
    Error::io("read it", Path::new("file"), kind.into())
}

/// Errors as those who make them make them.
fn ways() -> Vec<(&'static str, Error, ErrorKind, Fault, Reach, Retry, u8)> {
    use std::io::ErrorKind as Io;
    use {ErrorKind as K, Fault as F, Reach as R, Retry as T};
    let challengers = F::Contestant(Side::Challenger);
    let operators = |kind| error(kind).with_fault(F::Operator).with_reach(R::Duel).with_retry(T::Never);
    let refused = |kind| error(kind).with_fault(F::Infrastructure).with_retry(T::Never);
    let charged = |error: Error| {
        error.charged_to(|artefact| match artefact {
            Artefact::Text => Side::King,
            _ => Side::Challenger,
        })
    };
    let overflow = Overflow { step: Step::Reply, position: 7, place: Place::Logits };
    let lost = error(K::DeviceLost).with_reach(R::Process).with_retry(T::Never);
    let later = Duration::from_secs(3);
    let (ours, never, again) = (F::Infrastructure, T::Never, T::Backoff);
    vec![
        // Configuration and command line.
        ("a wrong setting", error(K::ConfigInvalid), K::ConfigInvalid, F::Operator, R::Duel, never, 78),
        ("an unknown plugin", error(K::UnknownPlugin), K::UnknownPlugin, F::Operator, R::Duel, never, 78),
        ("a path that is not there", io(Io::NotFound), K::NotFound, F::Operator, R::Duel, never, 66),
        ("a file for a folder", io(Io::NotADirectory), K::DataInvalid, F::Operator, R::Duel, never, 65),
        ("no permission", io(Io::PermissionDenied), K::Unavailable, F::Operator, R::Duel, never, 77),
        ("another duel's journal", operators(K::Conflict), K::Conflict, F::Operator, R::Duel, never, 78),
        ("malformed tasks", operators(K::DataInvalid), K::DataInvalid, F::Operator, R::Duel, never, 65),
        ("cancelled", Error::cancelled("do it"), K::Cancelled, F::Operator, R::Duel, never, 130),
        // Files of a contestant.
        (
            "malformed weights of the challenger",
            charged(error(K::DataInvalid).about(Artefact::Model)),
            K::DataInvalid,
            challengers,
            R::Call,
            never,
            65,
        ),
        (
            "weights that are not the pinned ones",
            charged(error(K::DigestMismatch).about(Artefact::Model)),
            K::DigestMismatch,
            challengers,
            R::Call,
            never,
            65,
        ),
        (
            "an architecture that nobody supports",
            charged(error(K::Unsupported).about(Artefact::Model)),
            K::Unsupported,
            challengers,
            R::Call,
            never,
            65,
        ),
        (
            "the king's tokenizer, met while the challenger loads",
            charged(error(K::DataInvalid).about(Artefact::Text)),
            K::DataInvalid,
            F::Contestant(Side::King),
            R::Call,
            never,
            65,
        ),
        (
            "arithmetic that overflows, before it is repeated",
            Error::overflowed("generate a reply", overflow),
            K::Overflow,
            ours,
            R::Sample,
            never,
            65,
        ),
        // Providers.
        ("400", refused(K::DataInvalid), K::DataInvalid, ours, R::Call, never, 65),
        ("401, no key", operators(K::Unavailable), K::Unavailable, F::Operator, R::Duel, never, 77),
        (
            "402, a key's limit",
            operators(K::ResourceExhausted),
            K::ResourceExhausted,
            F::Operator,
            R::Duel,
            never,
            77,
        ),
        ("403", charged(refused(K::Unavailable)), K::Unavailable, ours, R::Call, never, 69),
        ("404", operators(K::NotFound), K::NotFound, F::Operator, R::Duel, never, 66),
        (
            "429",
            error(K::RateLimited).with_retry(T::After(later)),
            K::RateLimited,
            ours,
            R::Call,
            T::After(later),
            75,
        ),
        ("500, a cut, the network", error(K::Unavailable), K::Unavailable, ours, R::Call, again, 69),
        (
            "500 until the tries were used up",
            error(K::Unavailable).with_retry(T::Exhausted { attempts: 5 }),
            K::Unavailable,
            ours,
            R::Call,
            T::Exhausted { attempts: 5 },
            69,
        ),
        ("garbage", error(K::Protocol), K::Protocol, ours, R::Call, again, 69),
        ("a deadline", error(K::Timeout), K::Timeout, ours, R::Call, again, 75),
        (
            "a spent budget",
            operators(K::ResourceExhausted),
            K::ResourceExhausted,
            F::Operator,
            R::Duel,
            never,
            77,
        ),
        // Machines.
        ("a text that a provider refuses", error(K::Refused), K::Refused, ours, R::Call, never, 69),
        ("a device that failed once", error(K::DeviceLost), K::DeviceLost, ours, R::Call, again, 75),
        ("a lost GPU", charged(lost), K::DeviceLost, ours, R::Process, never, 75),
        ("no memory", error(K::ResourceExhausted), K::ResourceExhausted, ours, R::Call, again, 75),
        ("a full disk", io(Io::StorageFull), K::ResourceExhausted, ours, R::Call, again, 75),
        ("a disk that fails", io(Io::Other), K::Unavailable, ours, R::Call, again, 69),
        // Data that nobody vouches for, and ourselves.
        ("an altered record", error(K::DigestMismatch), K::DigestMismatch, ours, R::Call, never, 65),
        ("a conflict", error(K::Conflict), K::Conflict, ours, R::Duel, never, 75),
        ("a broken invariant", Error::bug("do it", "no"), K::Unexpected, F::Bug, R::Duel, never, 70),
    ]
}

#[test]
fn every_way_to_fail_has_its_fault_reach_retry_and_exit_code() {
    for (way, error, kind, fault, reach, retry, code) in ways() {
        let found = (error.kind(), error.fault(), error.reach(), error.retry(), Exit::of(&error).code());
        assert_eq!(found, (kind, fault, reach, retry, code), "{way}");
    }
}

#[test]
fn every_kind_is_in_the_table() {
    for kind in ErrorKind::ALL {
        assert!(ways().iter().any(|(_, error, ..)| error.kind() == kind), "{kind:?}");
    }
}
