//! Looking at a running data plane: listeners, services, connections, certificates. Asked for by people and scrapers,
//! never on the path of a call.

use std::sync::Arc;
use std::time::Duration;

use dodai_transport::tls::files;
use tokio::sync::mpsc;

use super::{Command, DataPlane};
use crate::{arrivals, gauges, roll, service, survey};

impl DataPlane {
    /// What happened at the listeners.
    pub fn arrivals(&self) -> Vec<arrivals::Reading> {
        self.shared.arrivals.read()
    }

    /// Handshakes with those that are called: that ended well, by [`arrivals::VERSIONS`], and that failed.
    pub fn dialled(&self) -> ([u64; arrivals::VERSIONS.len()], u64) {
        self.shared.dialled.read()
    }

    /// How the services of the live table stand, by name, with the connections to their endpoints.
    pub fn survey(&self) -> Vec<(survey::ServiceView, gauges::Pool)> {
        self.survey_of(&self.services())
    }

    /// The services of the live table, by name.
    pub fn services(&self) -> Vec<Arc<service::Service>> {
        let mut all: Vec<_> = self.table().services().cloned().collect();
        all.sort_by(|one, other| one.label.cmp(&other.label));
        all
    }

    /// How these stand, in their order, with the connections to their endpoints.
    pub fn survey_of(&self, services: &[Arc<service::Service>]) -> Vec<(survey::ServiceView, gauges::Pool)> {
        let (now, pools) = (service::now_nanos(), self.shared.gauges.pools());
        let view = |service: &Arc<service::Service>| {
            let mut sum = gauges::Pool::default();
            let own = service.endpoints().iter().filter_map(|endpoint| pools.get(&endpoint.id));
            own.for_each(|pool| sum.add(pool));
            (service.survey(now), sum)
        };
        services.iter().map(view).collect()
    }

    /// The connections that are wanted, by their numbers. A thread that does not answer within `patience` is left out.
    pub async fn connections(&self, wanted: roll::Wanted, patience: Duration) -> Vec<roll::Connection> {
        let (limit, wanted) = (wanted.limit, Arc::new(wanted));
        let (answer, mut answers) = mpsc::channel(self.commands.len().max(1));
        let asked = async {
            for thread in &self.commands {
                let _down =
                    thread.send(Command::Roll { wanted: wanted.clone(), answer: answer.clone() }).await;
            }
            drop(answer);
            let mut all = Vec::new();
            while let Some(some) = answers.recv().await {
                all.extend(some);
            }
            all
        };
        let mut all = tokio::time::timeout(patience, asked).await.unwrap_or_default();
        all.sort_by_key(|connection| connection.id);
        all.truncate(limit);
        all
    }

    /// The certificates of listeners, by listener.
    pub fn certificates(&self) -> Vec<(String, files::Served)> {
        let all = self.files.load();
        let of = |(name, files): &(String, files::Files)| {
            let name = name.clone();
            files.served().into_iter().map(move |served| (name.clone(), served))
        };
        all.iter().flat_map(of).collect()
    }
}
