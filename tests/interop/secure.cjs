// A client of Tidemill on grpc-js over TLS. Prints what each way of calling ends with, as one JSON object.
// Usage: node secure.cjs ADDRESS PROTO_FOLDER CA KEY [CERT CERT_KEY]
"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos, ca, key, cert, certKey] = process.argv.slice(2);
const definition = loader.loadSync("tidemill/v1/model.proto", { keepCase: true, includeDirs: [protos] });
const { ModelService } = grpc.loadPackageDefinition(definition).tidemill.v1;

/** The status of a call that lists the models. */
function list(credentials, headers, target = address) {
  const client = new ModelService(target, credentials);
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  return new Promise((resolve) => {
    client.ListModels({}, metadata, { deadline: Date.now() + 20000 }, (error) => {
      client.close();
      resolve(error ? grpc.status[error.code] : "OK");
    });
  });
}

async function main() {
  const authority = fs.readFileSync(ca);
  const shown = cert ? [fs.readFileSync(certKey), fs.readFileSync(cert)] : [null, null];
  const trusted = grpc.credentials.createSsl(authority, ...shown);
  const called = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${key}`);
    done(null, metadata);
  });
  console.log(
    JSON.stringify({
      metadata: await list(trusted, { authorization: `Bearer ${key}` }),
      "x-api-key": await list(trusted, { "x-api-key": key }),
      "call credentials": await list(grpc.credentials.combineChannelCredentials(trusted, called), {}),
      none: await list(trusted, {}),
      wrong: await list(trusted, { authorization: `Bearer ${key.replace(/.$/, (last) => (last === "0" ? "1" : "0"))}` }),
      untrusted: await list(grpc.credentials.createSsl(), { authorization: `Bearer ${key}` }),
    }),
  );
}

main();
