// A client of npm's `ws`: takes commands as lines of JSON, and tells what happens likewise.
// node client.mjs FOLDER URL, where FOLDER has node_modules.

import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, url] = process.argv.slice(2);
const { WebSocket } = createRequire(`${folder}/`)("ws");

const tell = (event) => console.log(JSON.stringify(event));
const content = (size, binary) =>
  binary ? Buffer.alloc(size, 7) : "x".repeat(size);

const socket = new WebSocket(url);
socket.on("open", () => tell({ event: "open" }));
socket.on("message", (data, binary) => {
  const digest = createHash("sha256").update(data).digest("hex");
  tell({ event: "message", binary, size: data.length, digest });
});
socket.on("ping", () => tell({ event: "ping" }));
socket.on("pong", (data) => tell({ event: "pong", data: data.toString() }));
socket.on("error", (error) => tell({ event: "error", text: error.message }));
socket.on("close", (code, reason) =>
  tell({ event: "close", code, reason: reason.toString() }),
);

const commands = {
  text: ({ text }) => socket.send(text),
  binary: ({ hex }) => socket.send(Buffer.from(hex, "hex")),
  large: ({ size, binary }) => socket.send(content(size, binary)),
  fragments: ({ parts, binary }) =>
    parts.forEach((part, index) =>
      socket.send(part, { binary, fin: index === parts.length - 1 }),
    ),
  ping: ({ data }) => socket.ping(data),
  close: ({ code, reason }) => socket.close(code, reason),
  pause: () => socket.pause(),
  resume: () => socket.resume(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  commands[command](options);
}
socket.terminate();
