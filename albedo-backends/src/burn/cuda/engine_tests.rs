//! The engine on the first GPU; without one, every test says so and passes.
