//! Who gets which weight, and who may set it: pure functions of what the chain
//! says.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::{ConsensusMode, Hotkey, Metagraph, Neuron, Subnet, Uid};
use crate::error::{Error, ErrorKind, Fault, Result};

use super::Share;

const OPERATION: &str = "share the weights out";

/// Weights are shared equally by the last kings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EqualSplit {
    /// How many kings share, at most: 5 in the Python system.
    pub kings: usize,
    /// The slot that gets everything while no king is registered.
    pub burn: Uid,
}

impl EqualSplit {
    /// The shares of `kings`, the newest first: the first [`EqualSplit::kings`]
    /// of them that are registered, each once, in equal parts of 65,535; what
    /// does not divide goes to the newest.
    ///
    /// # Errors
    /// The operator's: a policy that gives fewer targets than the subnet
    /// demands, or one target more than it allows; a burn slot that nobody
    /// holds.
    pub fn shares(&self, kings: &[Hotkey], subnet: &Subnet, metagraph: &Metagraph) -> Result<Vec<Share>> {
        let mut seen = BTreeSet::new();
        let mut targets: Vec<&Neuron> = (kings.iter())
            .filter(|king| seen.insert(*king))
            .filter_map(|king| metagraph.of(king))
            .take(self.kings)
            .collect();
        if targets.is_empty() {
            let burn = metagraph.at(self.burn).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    OPERATION,
                    "no king is registered, and nobody has the burn slot",
                )
                .with("uid", self.burn.0)
            })?;
            targets.push(burn);
        }
        let count = targets.len() as u16;
        let (each, rest) = (u16::MAX / count, u16::MAX % count);
        check_limits(targets.len(), each + u16::from(rest > 0), subnet)?;
        let share = |(place, neuron): (usize, &Neuron)| Share {
            uid: neuron.uid,
            hotkey: neuron.hotkey.clone(),
            weight: each + u16::from(place < usize::from(rest)),
        };
        let mut shares: Vec<_> = targets.into_iter().enumerate().map(share).collect();
        shares.sort_by_key(|share| share.uid);
        Ok(shares)
    }

    /// The shares of `last` again, in the same proportions and 65,535 together, of those who are
    /// still registered, in whichever slots they are now; everything to [`EqualSplit::burn`] if
    /// nobody is. A share of that slot is kept only by who holds it still.
    ///
    /// # Errors
    /// As [`EqualSplit::shares`].
    pub fn again(&self, last: &[Share], subnet: &Subnet, metagraph: &Metagraph) -> Result<Vec<Share>> {
        // The burn slot's share is the slot's: it goes to nobody who has left the slot.
        let has_burn = |share: &Share| metagraph.at(self.burn).is_some_and(|now| now.hotkey == share.hotkey);
        // Who left and came back has another slot.
        let moved = |share: &Share| {
            let uid = metagraph.of(&share.hotkey)?.uid;
            (share.uid != self.burn || has_burn(share)).then(|| Share { uid, ..share.clone() })
        };
        let mut kept: Vec<Share> = last.iter().filter(|share| share.weight > 0).filter_map(moved).collect();
        kept.sort_by_key(|share| share.uid);
        let before: u32 = kept.iter().map(|share| u32::from(share.weight)).sum();
        if before == 0 {
            return self.shares(&[], subnet, metagraph);
        }
        let whole = u32::from(u16::MAX);
        for share in &mut kept {
            share.weight = (u32::from(share.weight) * whole / before) as u16;
        }
        // What does not divide goes to the lowest slots.
        let given: u32 = kept.iter().map(|share| u32::from(share.weight)).sum();
        for share in kept.iter_mut().take(whole.saturating_sub(given) as usize) {
            share.weight += 1;
        }
        let largest = kept.iter().map(|share| share.weight).max().unwrap_or_default();
        check_limits(kept.len(), largest, subnet)?;
        Ok(kept)
    }
}

/// Whether the chain lets `hotkey` set weights.
///
/// # Errors
/// The operator's, with the reason: not registered, no validator permit, or
/// not the largest stake of a subnet in [`ConsensusMode::Null`].
pub fn check_setter(hotkey: &Hotkey, subnet: &Subnet, metagraph: &Metagraph) -> Result<Uid> {
    const OPERATION: &str = "set weights";
    let refused = |kind, message: &str| {
        Error::new(kind, OPERATION, message).with_fault(Fault::Operator).with("hotkey", hotkey)
    };
    let neuron = metagraph
        .of(hotkey)
        .ok_or_else(|| refused(ErrorKind::NotFound, "the hotkey is not registered on the subnet"))?;
    match subnet.consensus {
        ConsensusMode::Yuma if neuron.validator_permit => Ok(neuron.uid),
        ConsensusMode::Yuma => {
            Err(refused(ErrorKind::Unsupported, "the hotkey has no validator permit")
                .with("stake", neuron.stake))
        }
        ConsensusMode::Null => match metagraph.neurons.iter().find(|other| other.stake > neuron.stake) {
            None => Ok(neuron.uid),
            Some(larger) => {
                let message = "on a subnet with null consensus only the largest stake sets weights";
                Err(refused(ErrorKind::Unsupported, message)
                    .with("stake", neuron.stake)
                    .with("larger", &larger.hotkey))
            }
        },
    }
}

/// Whether the slots of `shares` still belong to those that they name.
///
/// # Errors
/// [`ErrorKind::Conflict`], naming the first slot that does not: the vector
/// must not be submitted, and a later epoch gets a new one.
pub fn check_targets(shares: &[Share], metagraph: &Metagraph) -> Result<()> {
    let holders: BTreeMap<_, _> =
        metagraph.neurons.iter().map(|neuron| (neuron.uid, &neuron.hotkey)).collect();
    match shares.iter().find(|share| holders.get(&share.uid) != Some(&&share.hotkey)) {
        None => Ok(()),
        Some(share) => {
            let holder = holders.get(&share.uid).map_or("nobody", |hotkey| hotkey.0.as_str());
            Err(Error::new(
                ErrorKind::Conflict,
                "set weights",
                "a slot has changed hands since they were shared out",
            )
            .with_fault(Fault::Infrastructure)
            .with("uid", share.uid.0)
            .with("named", &share.hotkey)
            .with("holder", holder))
        }
    }
}

/// Whether the weights that the chain keeps of a setter are those of `shares`.
/// It scales them until the largest is 65,535; rounding may differ by one.
pub fn are_in_force(shares: &[Share], kept: &[(Uid, u16)]) -> bool {
    let Some(largest) =
        shares.iter().map(|share| u32::from(share.weight)).max().filter(|largest| *largest > 0)
    else {
        return false;
    };
    let wanted = shares.iter().filter(|share| share.weight > 0);
    let wanted: BTreeMap<_, _> = wanted
        .map(|share| (share.uid, (u32::from(share.weight) * u32::from(u16::MAX) / largest) as u16))
        .collect();
    let found: BTreeMap<_, _> = kept.iter().copied().filter(|(_, weight)| *weight > 0).collect();
    wanted.len() == found.len()
        && wanted
            .iter()
            .zip(&found)
            .all(|((uid, weight), (other, kept))| uid == other && weight.abs_diff(*kept) <= 1)
}

/// Whether the subnet takes so many targets, the largest with that weight.
fn check_limits(targets: usize, largest: u16, subnet: &Subnet) -> Result<()> {
    let refused = |message: &str| Error::new(ErrorKind::ConfigInvalid, OPERATION, message);
    if targets < usize::from(subnet.min_weights) {
        return Err(refused("the subnet demands more targets than there are")
            .with("targets", targets)
            .with("min_weights", subnet.min_weights)
            .with_hint("share among more kings, or ask the subnet's owner to lower the minimum"));
    }
    if largest > subnet.max_weight {
        return Err(refused("one target would get more than the subnet allows")
            .with("weight", largest)
            .with("max_weight", subnet.max_weight)
            .with_hint("share among more kings"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::Coldkey;

    fn subnet() -> Subnet {
        Subnet {
            tempo: 360,
            epoch: 3,
            next_epoch: 1440,
            weights_rate_limit: 100,
            commit_reveal: true,
            reveal_period: 1,
            min_weights: 1,
            max_weight: u16::MAX,
            weights_version: 0,
            registration_cost: 1,
            consensus: ConsensusMode::Yuma,
        }
    }

    /// Neurons `0..`, of hotkeys "0"…; the stakes are theirs.
    fn metagraph(stakes: &[u64]) -> Metagraph {
        let neuron = |(uid, stake): (usize, &u64)| Neuron {
            uid: Uid(uid as u16),
            hotkey: Hotkey(uid.to_string()),
            coldkey: Coldkey(format!("owner of {uid}")),
            registered_at: 0,
            validator_permit: *stake > 0,
            stake: *stake,
        };
        Metagraph { neurons: stakes.iter().enumerate().map(neuron).collect() }
    }

    fn hotkeys(names: &[&str]) -> Vec<Hotkey> {
        names.iter().map(|name| Hotkey((*name).into())).collect()
    }

    #[test]
    fn the_last_registered_kings_share() {
        let (policy, metagraph) = (EqualSplit { kings: 3, burn: Uid(0) }, metagraph(&[0; 8]));
        let shares = |kings: &[&str]| -> Vec<_> {
            let shares = policy.shares(&hotkeys(kings), &subnet(), &metagraph).expect("shares");
            shares.iter().map(|share| (share.uid.0, share.weight)).collect()
        };
        assert_eq!(shares(&["7", "gone", "2", "7", "4", "5"]), [(2, 21_845), (4, 21_845), (7, 21_845)]);
        assert_eq!(shares(&["7", "2"]), [(2, 32_767), (7, 32_768)]);
        assert_eq!(shares(&["gone"]), [(0, 65_535)]);
        assert_eq!(shares(&[]), [(0, 65_535)]);
    }

    #[test]
    fn limits_of_the_subnet_are_the_operators_to_meet() {
        let (policy, metagraph) = (EqualSplit { kings: 5, burn: Uid(0) }, metagraph(&[0; 8]));
        let few = Subnet { min_weights: 3, ..subnet() };
        let low = Subnet { max_weight: 30_000, ..subnet() };
        for (subnet, word) in [(few, "min_weights: 3"), (low, "max_weight: 30000")] {
            let error = policy.shares(&hotkeys(&["1", "2"]), &subnet, &metagraph).expect_err(word);
            assert_eq!(error.fault(), Fault::Operator);
            assert!(error.to_string().contains(word), "{error}");
            assert!(policy.shares(&hotkeys(&["1", "2", "3"]), &subnet, &metagraph).is_ok());
        }
        let nobody = EqualSplit { kings: 5, burn: Uid(9) };
        assert_eq!(
            nobody.shares(&[], &subnet(), &metagraph).expect_err("no slot").kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn who_leaves_leaves_its_part_to_those_who_stay() {
        let (policy, metagraph) = (EqualSplit { kings: 5, burn: Uid(0) }, metagraph(&[0; 8]));
        let share =
            |uid, hotkey: &str, weight| Share { uid: Uid(uid), hotkey: Hotkey(hotkey.into()), weight };
        let again = |last: &[Share]| -> Vec<_> {
            let shares = policy.again(last, &subnet(), &metagraph).expect("shares");
            check_targets(&shares, &metagraph).expect("they hold their slots");
            shares.iter().map(|share| (share.uid.0, share.weight)).collect()
        };
        let three = [share(2, "2", 21_845), share(4, "4", 21_845), share(7, "7", 21_845)];
        assert_eq!(again(&three), [(2, 21_845), (4, 21_845), (7, 21_845)], "all stay");
        let [two, four, _] = three.clone();
        assert_eq!(again(&[two.clone(), four, share(7, "gone", 21_845)]), [(2, 32_768), (4, 32_767)]);
        let uneven = [two, share(4, "4", 10_000), share(5, "gone", 33_690)];
        assert_eq!(again(&uneven), [(2, 44_956), (4, 20_579)]);
        assert_eq!(again(&[share(9, "9", 65_535)]), [(0, 65_535)], "it has left: everything is burnt");
        // Two have left and come back to other slots, the second to the slot of the first.
        let moved = [share(2, "4", 30_000), share(6, "2", 35_535)];
        assert_eq!(again(&moved), [(2, 35_535), (4, 30_000)]);
        assert_eq!(again(&[]), [(0, 65_535)]);
        assert_eq!(again(&[share(0, "0", 65_535)]), [(0, 65_535)], "all was burnt");
        // The owner of the burn slot has given it another hotkey, and the former one has come back to
        // slot 3.
        assert_eq!(again(&[share(0, "3", 65_535)]), [(0, 65_535)], "the burn's share stays the burn's");
        assert_eq!(again(&[share(0, "3", 32_768), share(4, "4", 32_767)]), [(4, 65_535)]);
        let few = Subnet { min_weights: 2, ..subnet() };
        let error = policy.again(&[share(3, "3", 65_535)], &few, &metagraph).expect_err("too few");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
    }

    #[test]
    fn only_who_may_sets_weights() {
        let metagraph = metagraph(&[0, 5, 9, 9]);
        let may = |hotkey: &str, consensus| {
            check_setter(&Hotkey(hotkey.into()), &Subnet { consensus, ..subnet() }, &metagraph).is_ok()
        };
        let answers = |consensus| ["0", "1", "2", "3", "x"].map(|hotkey| may(hotkey, consensus));
        assert_eq!(answers(ConsensusMode::Yuma), [false, true, true, true, false]);
        assert_eq!(answers(ConsensusMode::Null), [false, false, true, true, false]);
    }

    #[test]
    fn a_slot_that_changed_hands_is_found() {
        let share = |uid, hotkey: &str| Share { uid: Uid(uid), hotkey: Hotkey(hotkey.into()), weight: 1 };
        let metagraph = metagraph(&[0; 3]);
        assert!(check_targets(&[share(0, "0"), share(2, "2")], &metagraph).is_ok());
        for wrong in [share(1, "0"), share(3, "3")] {
            let error = check_targets(&[share(0, "0"), wrong], &metagraph).expect_err("changed");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Conflict, Fault::Infrastructure));
        }
    }

    #[test]
    fn weights_in_force_are_recognised() {
        let share = |uid, weight| Share { uid: Uid(uid), hotkey: Hotkey(uid.to_string()), weight };
        let shares = [share(2, 21_845), share(5, 43_690)];
        let kept = |kept: &[(u16, u16)]| {
            let kept: Vec<_> = kept.iter().map(|(uid, weight)| (Uid(*uid), *weight)).collect();
            are_in_force(&shares, &kept)
        };
        for same in [
            &[(2, 32_767), (5, 65_535)][..],
            &[(5, 65_535), (2, 32_768)],
            &[(1, 0), (2, 32_767), (5, 65_535)],
        ] {
            assert!(kept(same), "{same:?}");
        }
        for other in [&[][..], &[(5, 65_535)], &[(2, 32_000), (5, 65_535)], &[(3, 32_767), (5, 65_535)]] {
            assert!(!kept(other), "{other:?}");
        }
        assert!(!are_in_force(&[], &[]));
    }

    proptest! {
        #[test]
        fn shares_are_whole_and_nearly_equal(
            kings in proptest::collection::vec(0_u16..12, 0..9),
            most in 1_usize..7,
        ) {
            let kings: Vec<_> = kings.iter().map(|king| Hotkey(king.to_string())).collect();
            let policy = EqualSplit { kings: most, burn: Uid(0) };
            let shares = policy.shares(&kings, &subnet(), &metagraph(&[0; 8])).expect("shares");
            prop_assert!(shares.len() <= most);
            prop_assert_eq!(shares.iter().map(|share| u32::from(share.weight)).sum::<u32>(), 65_535);
            prop_assert!(shares.is_sorted_by(|a, b| a.uid < b.uid));
            let weights = shares.iter().map(|share| share.weight);
            prop_assert!(weights.clone().max().zip(weights.min()).is_some_and(|(most, least)| most - least <= 1));
        }
    }
}
