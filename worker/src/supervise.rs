//! What happens when a task of the worker ends although nobody asked it to: the process ends, in order, rather than go on
//! without it and look healthy.

use std::sync::{Arc, OnceLock};

use hookyard_shared::startup::{EXIT_SOFTWARE, Exit};
use tokio_util::sync::CancellationToken;

/// Watches over the worker's tasks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Supervisor {
    shutdown: CancellationToken,
    /// The first task that ended by a fault.
    failed: Arc<OnceLock<&'static str>>,
}

impl Supervisor {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, failed: Arc::default() }
    }

    /// The task, which must not end before the shutdown: not by a panic, and not by returning.
    pub(crate) fn watch<F: Future<Output = ()>>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = ()> + use<F> {
        // Made here, not in the task: a task that is dropped before its first turn has ended, too.
        let end = End { supervisor: self.clone(), name };
        async move {
            let _end = end;
            task.await;
        }
    }

    /// Notes that a task has ended; before the shutdown that is a fault, and brings the shutdown about.
    pub(crate) fn ended(&self, name: &'static str) {
        if self.shutdown.is_cancelled() {
            return;
        }
        tracing::error!(task = name, "a task of the worker ended by a fault; the process stops");
        self.failed.set(name).ok();
        self.shutdown.cancel();
    }

    /// What the process says at its end.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(name) => {
                let words = format!(
                    "the worker's task `{name}` ended by a fault of the program; the log says where. Nothing is lost: start it again, and report the fault"
                );
                Err(Exit::new(EXIT_SOFTWARE, words).into())
            }
        }
    }
}

/// Notes the end of a task, by whichever way it ends.
struct End {
    supervisor: Supervisor,
    name: &'static str,
}

impl Drop for End {
    fn drop(&mut self) {
        self.supervisor.ended(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_brings_the_shutdown_about_and_the_exit_code_says_so() {
        for panics in [false, true] {
            let supervisor = Supervisor::new(CancellationToken::new());
            let task = async move { assert!(!panics, "a fault") };
            tokio::spawn(supervisor.watch("schedule", task)).await.ok();
            assert!(supervisor.shutdown.is_cancelled());
            let verdict = supervisor.verdict().unwrap_err();
            assert_eq!(verdict.downcast_ref::<Exit>().unwrap().code, EXIT_SOFTWARE);
            assert!(verdict.to_string().contains("`schedule`"), "{verdict}");
        }
    }

    #[tokio::test]
    async fn an_end_after_the_shutdown_is_in_order() {
        let supervisor = Supervisor::new(CancellationToken::new());
        supervisor.shutdown.cancel();
        supervisor.watch("schedule", async {}).await;
        supervisor.verdict().unwrap();
    }
}
