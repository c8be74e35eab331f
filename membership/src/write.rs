//! What is written into the objects, as RFC 6902 patches.
//!
//! The objects are the API server's own JSON, untyped, so that a field which this program does not
//! know is never lost. A patch sets single fields and never rewrites a list (facts-kubernetes H).

pub mod carried;
mod env;
mod own;
pub mod ownership;
pub mod pod;
pub mod serving;
pub mod statefulset;
pub mod volume;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use serde_json::{Map, Value};

use crate::know::object::get;

/// A patch in the making: the object as it stands after the operations so far, and the operations.
///
/// An edit that would change nothing adds no operation, so every patch is idempotent.
struct Edit {
    object: Value,
    operations: Vec<PatchOperation>,
}

impl Edit {
    fn new(object: &Value) -> Self {
        Self { object: object.clone(), operations: Vec::new() }
    }

    /// The value at a path; `null` counts as absent, as it does for the API server.
    fn get(&self, path: &[&str]) -> Option<&Value> {
        get(&self.object, path)
    }

    /// Sets the value at a path, making the objects on the way that are missing.
    fn set(&mut self, path: &[&str], value: Value) {
        if self.get(path) == Some(&value) {
            return;
        }
        // One operation adds what is missing to the deepest part of the path that exists.
        let mut depth = path.len() - 1;
        while depth > 0 && self.get(&path[..depth]).is_none() {
            depth -= 1;
        }
        let value = path[depth + 1..]
            .iter()
            .rev()
            .fold(value, |inner, &key| Value::Object(Map::from_iter([(key.to_owned(), inner)])));
        self.apply(PatchOperation::Add(AddOperation { path: pointer(&path[..=depth]), value }));
    }

    /// Appends to the list at a path, making it if it is missing.
    fn push(&mut self, path: &[&str], value: Value) {
        if self.get(path).is_none() {
            return self.set(path, Value::Array(vec![value]));
        }
        let path = pointer(&[path, &["-"]].concat());
        self.apply(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Puts a value before the entry at a path whose last part is an index.
    fn insert(&mut self, path: &[&str], value: Value) {
        self.apply(PatchOperation::Add(AddOperation { path: pointer(path), value }));
    }

    /// Removes what is at a path, if anything is.
    fn remove(&mut self, path: &[&str]) {
        if self.get(path).is_some() {
            self.apply(PatchOperation::Remove(RemoveOperation { path: pointer(path) }));
        }
    }

    /// Keeps the operation only if it applies. On an object of another shape than the API server's schema allows,
    /// nothing is written rather than something wrong.
    fn apply(&mut self, operation: PatchOperation) {
        if json_patch::patch(&mut self.object, std::slice::from_ref(&operation)).is_ok() {
            self.operations.push(operation);
        }
    }

    fn finish(self) -> Patch {
        Patch(self.operations)
    }
}

fn pointer(path: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(path.iter().copied())
}
