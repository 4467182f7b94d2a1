// Mean, median and mode of numbers: node stats.mjs SOCKET NUMBER…

import { connect } from "node:net";
import { createInterface } from "node:readline";

const [path = "SOCKET", ...words] = process.argv.slice(2);
const socket = connect(path);
const waiting = new Map();
let calls = 0;

// Calls on one connection run side by side, and their replies come as they are ready.
function call(method, params) {
  return new Promise((resolve, reject) => {
    const id = ++calls;
    waiting.set(id, { resolve, reject });
    socket.write(JSON.stringify({ jsonrpc: "2.0", id, method, params }) + "\n");
  });
}

const fail = (error) => waiting.forEach(({ reject }) => reject(error));
const replies = createInterface({ input: socket }).on("line", (line) => {
  const { id, result, error } = JSON.parse(line);
  // An error without an id is about the connection.
  if (id === null) return fail(error);
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(error);
  else resolve(result);
});
replies.on("error", fail).on("close", () => fail(new Error("the service has closed")));

try {
  const query = { numbers: words.map(Number) };
  const [mean, median, mode] = await Promise.all(["mean", "median", "mode"].map((method) => call(method, query)));
  console.log(`mean    ${mean.value}\nmedian  ${median.value}\nmode    ${mode.values.join(", ")}`);
} catch (error) {
  console.error(`stats.mjs: ${error.data?.kind ?? error.code}: ${error.message}`);
  process.exitCode = 1;
}
socket.end();
