//! What Dapr's service has and this one does not, and why.

/// Methods of Dapr's service that are not served, by the API they belong to.
const APIS: [(&str, &[&str]); 8] = [
    (
        "actors",
        &[
            "RegisterActorTimer",
            "UnregisterActorTimer",
            "RegisterActorReminder",
            "UnregisterActorReminder",
            "UnregisterActorRemindersByType",
            "ListActorReminders",
            "ListActorTimers",
            "GetActorState",
            "GetActorReminder",
            "GetActorTimer",
            "ExecuteActorStateTransaction",
            "InvokeActor",
            "SubscribeActorEventsAlpha1",
        ],
    ),
    (
        "workflows",
        &[
            "StartWorkflowAlpha1",
            "GetWorkflowAlpha1",
            "PurgeWorkflowAlpha1",
            "TerminateWorkflowAlpha1",
            "PauseWorkflowAlpha1",
            "ResumeWorkflowAlpha1",
            "RaiseEventWorkflowAlpha1",
            "StartWorkflowBeta1",
            "GetWorkflowBeta1",
            "PurgeWorkflowBeta1",
            "TerminateWorkflowBeta1",
            "PauseWorkflowBeta1",
            "ResumeWorkflowBeta1",
            "RaiseEventWorkflowBeta1",
        ],
    ),
    (
        "jobs",
        &[
            "ScheduleJobAlpha1",
            "ScheduleJob",
            "GetJobAlpha1",
            "GetJob",
            "DeleteJobAlpha1",
            "DeleteJob",
            "DeleteJobsByPrefixAlpha1",
            "DeleteJobsByPrefix",
            "ListJobsAlpha1",
            "ListJobs",
        ],
    ),
    ("cryptography", &["EncryptAlpha1", "DecryptAlpha1"]),
    (
        "subtle cryptography",
        &[
            "SubtleGetKeyAlpha1",
            "SubtleEncryptAlpha1",
            "SubtleDecryptAlpha1",
            "SubtleWrapKeyAlpha1",
            "SubtleUnwrapKeyAlpha1",
            "SubtleSignAlpha1",
            "SubtleVerifyAlpha1",
        ],
    ),
    ("conversation", &["ConverseAlpha1", "ConverseAlpha2"]),
    (
        "search and vectors",
        &[
            "CreateIndexAlpha1",
            "GetIndexAlpha1",
            "ListIndexesAlpha1",
            "DeleteIndexAlpha1",
            "IndexDocumentsAlpha1",
            "GetDocumentsAlpha1",
            "DeleteDocumentsAlpha1",
            "SearchAlpha1",
            "CreateCollectionAlpha1",
            "GetCollectionAlpha1",
            "ListCollectionsAlpha1",
            "DeleteCollectionAlpha1",
            "UpsertVectorsAlpha1",
            "DeleteVectorsAlpha1",
            "GetVectorsAlpha1",
            "QueryVectorsAlpha1",
            "BatchQueryVectorsAlpha1",
        ],
    ),
    ("binary files", &["SetBinaryFileAlpha1", "GetBinaryFileAlpha1", "DeleteBinaryFileAlpha1"]),
];

/// Why a method of Dapr's service is not served; `None` if it is, or if Dapr has none of that name.
pub(super) fn reason(method: &str) -> Option<String> {
    let (api, _) = APIS.iter().find(|(_, methods)| methods.contains(&method))?;
    Some(format!("this API is currently not implemented: this base does not serve the {api} API"))
}
