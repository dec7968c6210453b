//! gRPC's reflection protocol: what is served, and the descriptors of its messages.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::LazyLock;

use dodai_proto::apps::DESCRIPTORS;
use dodai_proto::apps::grpc::reflection::v1::server_reflection_request::MessageRequest as Asked;
use dodai_proto::apps::grpc::reflection::v1::server_reflection_response::MessageResponse as Answer;
use dodai_proto::apps::grpc::reflection::v1::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse, server_reflection_server,
};
use futures_util::stream::{Stream, StreamExt as _};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::{Code, Request, Response, Status, Streaming};

use super::SERVICES;

/// The service.
pub(super) struct Reflection;

/// Files, serialized, and which of them holds a symbol.
#[derive(Default)]
struct Index {
    files: Vec<Vec<u8>>,
    by_name: HashMap<String, usize>,
    by_symbol: HashMap<String, usize>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index::default();
    // They were written by the build.
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    set.file.iter().for_each(|file| index.add(file));
    index
});

impl Index {
    fn add(&mut self, file: &FileDescriptorProto) {
        let at = self.files.len();
        self.files.push(file.encode_to_vec());
        self.by_name.insert(file.name().to_owned(), at);
        let package = file.package();
        file.message_type.iter().for_each(|message| self.add_message(package, message, at));
        for one in &file.enum_type {
            self.by_symbol.insert(format!("{package}.{}", one.name()), at);
        }
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            let methods = service.method.iter().map(|method| (format!("{name}.{}", method.name()), at));
            self.by_symbol.extend(methods);
            self.by_symbol.insert(name, at);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, at: usize) {
        let name = format!("{scope}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add_message(&name, nested, at));
        let enums = message.enum_type.iter().map(|one| (format!("{name}.{}", one.name()), at));
        self.by_symbol.extend(enums);
        self.by_symbol.insert(name, at);
    }

    fn file(&self, at: Option<&usize>, what: &str) -> Answer {
        match at.and_then(|at| self.files.get(*at)) {
            Some(file) => Answer::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: vec![file.clone().into()],
            }),
            None => error(Code::NotFound, format!("`{what}` is not known here")),
        }
    }
}

fn error(code: Code, error_message: String) -> Answer {
    Answer::ErrorResponse(ErrorResponse { error_code: code.into(), error_message })
}

fn answer(asked: Option<&Asked>) -> Answer {
    match asked {
        Some(Asked::ListServices(_)) => {
            let service = SERVICES.map(|name| ServiceResponse { name: name.to_owned() }).into();
            Answer::ListServicesResponse(ListServiceResponse { service })
        }
        Some(Asked::FileByFilename(name)) => INDEX.file(INDEX.by_name.get(name), name),
        Some(Asked::FileContainingSymbol(name)) => INDEX.file(INDEX.by_symbol.get(name), name),
        Some(Asked::FileContainingExtension(_) | Asked::AllExtensionNumbersOfType(_)) => {
            error(Code::NotFound, "no message here has extensions".to_owned())
        }
        None => error(Code::InvalidArgument, "the request asks for nothing".to_owned()),
    }
}

#[tonic::async_trait]
impl server_reflection_server::ServerReflection for Reflection {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let answers = request.into_inner().map(|asked| {
            let asked = asked?;
            Ok(ServerReflectionResponse {
                valid_host: asked.host.clone(),
                message_response: Some(answer(asked.message_request.as_ref())),
                original_request: Some(asked),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
