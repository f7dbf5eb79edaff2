//! Variables: blocks, macros and loops.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use minijinja::machinery::ast;

use super::super::value::Val;

/// Variables of a block, and those around it.
pub(in super::super) struct Scope<'t> {
    pub(super) variables: RefCell<Vec<(&'t str, Val<'t>)>>,
    pub(super) outer: Option<Rc<Self>>,
}

/// A macro with what it can see.
pub(in super::super) struct Macro<'t> {
    pub(super) declared: &'t ast::Macro<'t>,
    pub(super) scope: Rc<Scope<'t>>,
}

/// The variable `loop`.
pub(in super::super) struct Loop<'t> {
    pub(super) items: Vec<Val<'t>>,
    pub(super) at: Cell<usize>,
    pub(super) changed: RefCell<Option<Vec<Val<'t>>>>,
}

impl Loop<'_> {
    pub(in super::super) fn length(&self) -> usize {
        self.items.len()
    }
}

impl<'t> Scope<'t> {
    pub(super) fn within(outer: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), outer: Some(Rc::clone(outer)) })
    }

    pub(super) fn get(&self, name: &str) -> Option<Val<'t>> {
        let own =
            self.variables.borrow().iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        own.or_else(|| self.outer.as_ref()?.get(name))
    }

    pub(super) fn set(&self, name: &'t str, value: Val<'t>) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => variables.push((name, value)),
        }
    }
}
