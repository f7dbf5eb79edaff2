//! Filters that order, group and pick the items of a list.

use std::cmp::Ordering;
use std::rc::Rc;

use super::super::eval::{Args, Render};
use super::super::value::Val;
use super::super::{Failed, Res};

impl<'t> Render<'t> {
    /// What filters compare by: an attribute, without case unless they are told.
    fn keys(&self, items: &[Val<'t>], attribute: Option<&Val<'t>>, cased: bool) -> Res<Vec<Val<'t>>> {
        let fold = |value: Val<'t>| match value {
            Val::Str(text) if !cased => {
                self.limits.spend(text.len())?;
                Ok(Val::str(text.to_lowercase()))
            }
            other => Ok(other),
        };
        items
            .iter()
            .map(|item| {
                fold(match attribute {
                    Some(attribute) => self.attribute_of(item, attribute)?,
                    None => item.clone(),
                })
            })
            .collect()
    }

    pub(super) fn sort(&self, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        let reverse = args.take(0, "reverse").is_some_and(|reverse| reverse.truth());
        let cased = args.take(1, "case_sensitive").is_some_and(|cased| cased.truth());
        let attribute = args.take(2, "attribute");
        if attribute.as_ref().and_then(Val::text).is_some_and(|attribute| attribute.contains(',')) {
            return Err(Failed::new("`sort` by several attributes is not supported"));
        }
        let items = value.items(&self.limits)?;
        let keys = self.keys(&items, attribute.as_ref(), cased)?;
        let pairs: Vec<_> = keys.into_iter().zip(items).collect();
        self.limits.spend_items(pairs.len().saturating_mul(8))?;
        let pairs = self.stable(pairs, reverse)?;
        Ok(Val::list(pairs.into_iter().map(|(_, item)| item).collect()))
    }

    /// Python's stable sort; equal keys keep their order also when reversed. The standard
    /// library's may panic where some of the keys have no order.
    fn stable<T>(&self, mut pairs: Vec<(Val<'t>, T)>, reverse: bool) -> Res<Vec<(Val<'t>, T)>> {
        if pairs.len() < 2 {
            return Ok(pairs);
        }
        let right = self.stable(pairs.split_off(pairs.len() / 2), reverse)?;
        let left = self.stable(pairs, reverse)?;
        let mut sorted = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        while let (Some((one, _)), Some((other, _))) = (left.peek(), right.peek()) {
            let order = one.order(other, &self.limits)?;
            let first = order == Ordering::Equal || (order == Ordering::Less) != reverse;
            sorted.extend(if first { left.next() } else { right.next() });
        }
        sorted.extend(left);
        sorted.extend(right);
        Ok(sorted)
    }

    pub(super) fn dictsort(&self, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        let Val::Dict(items) = value else { return Err(Failed::new("`dictsort` takes a dict")) };
        let cased = args.take(0, "case_sensitive").is_some_and(|cased| cased.truth());
        let by_value = match args.take(1, "by").as_ref().map(Val::text) {
            None | Some(Some("key")) => false,
            Some(Some("value")) => true,
            _ => return Err(Failed::new("`dictsort` sorts by key or by value")),
        };
        let reverse = args.take(2, "reverse").is_some_and(|reverse| reverse.truth());
        let by: Vec<_> =
            items.iter().map(|(key, value)| if by_value { value.clone() } else { key.clone() }).collect();
        let pairs: Vec<_> = self.keys(&by, None, cased)?.into_iter().zip(items.iter().cloned()).collect();
        let pairs = self.stable(pairs, reverse)?;
        let pair = |(key, value)| Val::Tuple(Rc::new(vec![key, value]));
        Ok(Val::list(pairs.into_iter().map(|(_, item)| pair(item)).collect()))
    }

    pub(super) fn unique(&self, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        let cased = args.take(0, "case_sensitive").is_some_and(|cased| cased.truth());
        let attribute = args.take(1, "attribute");
        let items = value.items(&self.limits)?;
        let keys = self.keys(&items, attribute.as_ref(), cased)?;
        let (mut seen, mut kept) = (Vec::<Val<'t>>::new(), Vec::new());
        for (key, item) in keys.into_iter().zip(items) {
            if Val::place(&seen, &key, &self.limits)?.is_none() {
                seen.push(key);
                kept.push(item);
            }
        }
        Ok(Val::once(kept))
    }

    pub(super) fn groupby(&self, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        let attribute =
            args.take(0, "attribute").ok_or_else(|| Failed::new("`groupby` takes an attribute"))?;
        let items = value.items(&self.limits)?;
        let keys = self.keys(&items, Some(&attribute), false)?;
        let pairs: Vec<_> = keys.into_iter().zip(items).collect();
        let pairs = self.stable(pairs, false)?;
        let mut groups: Vec<(Val<'t>, Vec<Val<'t>>)> = Vec::new();
        for (key, item) in pairs {
            match groups.last_mut() {
                Some((last, members)) if last.equals(&key, &self.limits)? => members.push(item),
                _ => groups.push((key, vec![item])),
            }
        }
        let group = |(_, members): (Val<'t>, Vec<Val<'t>>)| {
            // The name of a group is spelt as its first member spells it.
            let name = self.attribute_of(&members[0], &attribute)?;
            Ok(Val::Tuple(Rc::new(vec![name, Val::list(members)])))
        };
        Ok(Val::list(groups.into_iter().map(group).collect::<Res<_>>()?))
    }

    pub(super) fn batch(&self, name: &str, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        let items = value.items(&self.limits)?;
        let size =
            args.take(0, if name == "batch" { "linecount" } else { "slices" }).and_then(|size| size.int());
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
        let size = size.ok_or_else(|| Failed::new(format!("`{name}` takes a number above 0")))?;
        let fill = args.take(1, "fill_with").filter(|fill| !matches!(fill, Val::None));
        let mut rows: Vec<Vec<Val<'t>>> = Vec::new();
        if name == "batch" {
            rows.extend(items.chunks(size).map(<[Val<'t>]>::to_vec));
            if let (Some(fill), Some(last)) = (fill, rows.last_mut()) {
                self.limits.spend_items(size)?;
                last.resize(size, fill);
            }
        } else {
            self.limits.spend_items(size)?;
            let (each, more) = (items.len() / size, items.len() % size);
            let mut start = 0;
            for row in 0..size {
                let end = start + each + usize::from(row < more);
                let mut part = items[start..end].to_vec();
                if let Some(fill) = &fill
                    && row >= more
                {
                    part.push(fill.clone());
                }
                rows.push(part);
                start = end;
            }
        }
        Ok(Val::once(rows.into_iter().map(Val::list).collect()))
    }

    pub(super) fn extreme(&self, name: &str, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        let cased = args.take(0, "case_sensitive").is_some_and(|cased| cased.truth());
        let attribute = args.take(1, "attribute");
        let items = value.items(&self.limits)?;
        let keys = self.keys(&items, attribute.as_ref(), cased)?;
        let mut best: Option<usize> = None;
        let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
        for (index, key) in keys.iter().enumerate() {
            if match best {
                Some(best) => key.order(&keys[best], &self.limits)? == wanted,
                None => true,
            } {
                best = Some(index);
            }
        }
        Ok(best.map_or_else(|| Val::undefined("the extreme of nothing"), |best| items[best].clone()))
    }
}
