//! Whose turn it is: scenarios run side by side, but one that kills nodes, or
//! the API server, needs the bed for itself.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

// Fair: who waits to be alone is not passed by those who come later.
static NODES: RwLock<()> = RwLock::const_new(());

/// A turn beside others; ends when it is dropped.
pub async fn shared() -> RwLockReadGuard<'static, ()> {
    NODES.read().await
}

/// A turn with nobody else at work.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    NODES.write().await
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn nobody_works_beside_one_who_is_alone() {
        let (one, two) = (shared().await, shared().await);
        let mut waiting = Box::pin(alone());
        assert!(waiting.as_mut().now_or_never().is_none(), "it was let in beside others");
        assert!(shared().now_or_never().is_none(), "one who came later passed it");
        drop((one, two));
        let alone = waiting.await;
        assert!(shared().now_or_never().is_none(), "it was not left alone");
        drop(alone);
        assert!(shared().now_or_never().is_some());
    }
}
