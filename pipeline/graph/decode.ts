/**
 * ONNX files read back, for `inspect` and tests.
 *
 * @module
 */
import { fromBinary } from "@bufbuild/protobuf";
import { type ModelProto, ModelProtoSchema } from "./onnx_pb.ts";

/**
 * Decodes the bytes of an `.onnx` file. Parts that dbf does not use stay as unknown fields.
 *
 * @throws {TypeError} when the bytes are no protobuf of a model with a graph.
 */
export function decodeModel(bytes: Uint8Array): ModelProto {
  let model: ModelProto;
  try {
    model = fromBinary(ModelProtoSchema, bytes);
  } catch (cause) {
    throw new TypeError(`Cannot decode ${bytes.length} bytes as an ONNX model`, { cause });
  }
  if (model.graph === undefined) throw new TypeError("Cannot decode as an ONNX model: it has no graph");
  return model;
}
