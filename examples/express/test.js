// Tries to get past the gateway's rules by spelling paths the way Express reads them.
// `npm test`; GATEPOST_BIN names the binary (default: target/release/gatepost).
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const binary = process.env.GATEPOST_BIN ?? path.join(here, "../../target/release/gatepost");
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "gatepost-express-"));
const password = "correct horse battery";
const processes = [];
let ports;
let environment;

// --- starting and asking -----------------------------------------------------------------------

// From below the range that the system itself hands out, or an outgoing connection of somebody else
// could take one before its server starts.
async function freePorts(count) {
  const found = new Set();
  while (found.size < count) {
    const port = 10240 + Math.floor(Math.random() * 22528);
    const server = net.createServer();
    const free = await new Promise((done) => {
      server.once("error", () => done(false));
      server.listen(port, "127.0.0.1", () => done(true));
    });
    if (free) {
      found.add(port);
      await new Promise((done) => server.close(done));
    }
  }
  return [...found];
}

function listens(port) {
  return new Promise((done) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.once("connect", () => (socket.destroy(), done(true)));
    socket.once("error", () => done(false));
  });
}

async function start(name, port, command, args, env) {
  const log = path.join(folder, `${name}.log`);
  const out = fs.openSync(log, "w");
  const child = spawn(command, args, { stdio: ["ignore", out, out], env: { ...process.env, ...env }, cwd: here });
  fs.closeSync(out);
  processes.push(child);
  for (let tries = 0; tries < 600; tries += 1) {
    if (child.exitCode !== null) break;
    if (await listens(port)) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${name} did not start:\n${fs.readFileSync(log, "utf8")}`);
}

function gatepost(args, input = "") {
  return spawnSync(binary, args, { env: environment, input, encoding: "utf8", timeout: 60_000, cwd: here });
}

// A path goes out exactly as it is given; a header may be given twice.
function call(port, method, target, { token, body, headers = {} } = {}) {
  return new Promise((done, fail) => {
    const data = body === undefined ? undefined : JSON.stringify(body);
    const request = http.request({
      host: "127.0.0.1",
      port,
      method,
      path: target,
      agent: false,
      timeout: 20_000,
      headers: {
        ...(token && { Authorization: `Bearer ${token}` }),
        ...(data && { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(data) }),
        ...headers,
      },
    });
    request.on("timeout", () => request.destroy(new Error(`${method} ${target} took too long`)));
    request.on("error", fail);
    request.on("response", (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part) => (text += part));
      response.on("end", () => {
        let json = {};
        try {
          json = JSON.parse(text);
        } catch {
          // Not everything is JSON; the status is what counts then.
        }
        done({ status: response.statusCode, json, text });
      });
      response.on("error", fail);
    });
    request.end(data);
  });
}

const ask = (method, target, options) => call(ports.gateway, method, target, options);

async function login(username, secret = password) {
  const answer = await ask("POST", "/auth/login", { body: { username, password: secret } });
  assert.equal(answer.status, 200, answer.text);
  return answer.json.access_token;
}

before(async () => {
  const [app, gateway, admin] = await freePorts(3);
  ports = { app, gateway, admin };
  environment = {
    ...process.env,
    GATEPOST_CONFIG: path.join(here, "config.toml"),
    GATEPOST__SERVER__LISTEN: `["127.0.0.1:${gateway}"]`,
    GATEPOST__ADMIN__LISTEN: `127.0.0.1:${admin}`,
    GATEPOST__STORE__PATH: path.join(folder, "data"),
    GATEPOST__UPSTREAM__SHOP__SERVERS: `["http://127.0.0.1:${app}"]`,
  };
  const added = gatepost(["user", "add", "boss", "--role", "admin", "--password-stdin"], `${password}\n`);
  assert.equal(added.status, 0, added.stdout + added.stderr);
  await start("app", app, process.execPath, ["app.js"], { PORT: String(app) });
  await start("gatepost", gateway, binary, ["serve"], environment);
  const registered = await ask("POST", "/auth/register", { body: { username: "alice", password } });
  assert.equal(registered.status, 201, registered.text);
});

after(async () => {
  for (const child of processes.reverse()) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 30_000);
    await ended;
    clearTimeout(timer);
  }
  fs.rmSync(folder, { recursive: true, force: true });
});

// --- the tests -----------------------------------------------------------------------------------

// What Express alone answers with the admin page.
const honoured = [
  "/admin/orders", "/admin/orders/", "/ADMIN/orders", "/Admin/Orders", "/admin/ORDERS/", "/aDMIN/orders?x=/catalogue",
];

// The same path once needless encoding is undone, which the gateway does before it decides and forwards.
const encoded = ["/%61dmin/orders", "/%61%64%6d%69%6e/orders", "/admin/%6frders", "/ADMI%4E/orders", "/adm%69n/%6F%72ders/"];

// What it, or some server or router beside it, might.
const tricks = [
  "//admin/orders", "/admin//orders", "///ADMIN///orders", "/./admin/orders", "/admin/./orders", "/x/../admin/orders",
  "/catalogue/../admin/orders", "/catalogue/..//ADMIN/orders", "/catalogue/%2e%2e/admin/orders",
  "/catalogue/.%2e/admin/orders", "/catalogue/%252e%252e/admin/orders", "/catalogue/..%2fadmin/orders",
  "/catalogue%2f..%2fadmin%2forders", "/admin%2forders", "/admin%2Forders", "/admin%252forders", "/%2561dmin/orders",
  "/admin%5corders", "/admin\\orders", "/catalogue\\..\\admin\\orders", "/catalogue/..;/admin/orders", "/admin;x/orders",
  "/admin/orders;.css", "/admin/orders%3b.css", "/admin/orders%00", "/admin/orders%00/catalogue", "/admin/orders%0a",
  "/admin/orders%20", "/admin/orders.", "/admin/orders%2e", "/admin%/orders", "/%61%64%6D%69%6E%2Forders",
  "/%C4%B1/../admin/orders", "/adm%C4%B1n/orders", "/adm%69n/orders/%2e", "/admin/orders#x",
];

test("the app alone answers every honoured spelling, so the tricks are real ones", async () => {
  for (const target of honoured) {
    const answer = await call(ports.app, "GET", target);
    assert.equal(answer.json.secret, "all orders", `${target}: ${answer.status} ${answer.text}`);
  }
});

test("no spelling of the admin page opens to a user or to nobody", async () => {
  const token = await login("alice");
  for (const target of [...honoured, ...encoded, ...tricks]) {
    for (const options of [{ token }, {}]) {
      const answer = await ask("GET", target, options);
      const who = options.token ? "a user" : "nobody";
      assert.equal(answer.json.secret, undefined, `${target} as ${who} reached the page`);
      assert.ok([400, 401, 403, 404].includes(answer.status), `${target} as ${who}: ${answer.status} ${answer.text}`);
    }
  }
});

test("a spelling that means the page is a 403 for a user, not a 404 by accident", async () => {
  const token = await login("alice");
  for (const target of [...honoured, ...encoded]) {
    const answer = await ask("GET", target, { token });
    assert.deepEqual([answer.status, answer.json.code], [403, "forbidden"], target);
  }
});

test("an administrator reaches the page under every spelling that means it", async () => {
  const token = await login("boss");
  for (const target of [...honoured, ...encoded]) {
    const answer = await ask("GET", target, { token });
    assert.equal(answer.json.secret, "all orders", `${target}: ${answer.status} ${answer.text}`);
    assert.deepEqual([answer.json.user, answer.json.roles], ["boss", ["admin", "user"]], target);
  }
});

test("identity headers of a client never arrive", async () => {
  const token = await login("alice");
  for (const name of ["X-Auth-User", "x_auth_user", "X-Auth_User", "X.Auth.User", "X-Auth-User_"]) {
    const headers = { [name]: "boss", "X-Auth-Roles": "admin" };
    const open = await ask("GET", "/catalogue", { headers });
    assert.deepEqual([open.status, open.json.user, open.json.roles], [200, null, []], name);
    const known = await ask("GET", "/catalogue", { headers, token });
    assert.deepEqual([known.status, known.json.user, known.json.roles], [200, "alice", ["user"]], name);
    const admin = await ask("GET", "/admin/orders", { headers, token });
    assert.equal(admin.status, 403, name);
  }
});

test("an optional route takes no bad token for no token", async () => {
  const answer = await ask("GET", "/catalogue", { headers: { Authorization: "Bearer x.y.z" } });
  assert.deepEqual([answer.status, answer.json.code], [401, "invalid_token"]);
});

test("a user sees his own orders, and none after logout", async () => {
  const token = await login("alice");
  const mine = await ask("GET", "/orders", { token });
  assert.deepEqual(mine.json.orders, [{ id: 1, user: "alice", item: "kettle" }]);
  const out = await ask("POST", "/auth/logout", { token });
  assert.deepEqual([out.status, out.json.message], [200, "Successfully logged out!"]);
  const again = await ask("GET", "/orders", { token });
  assert.deepEqual([again.status, again.json.code], [401, "revoked_token"]);
});

test("a method that a route does not name is refused before the app", async () => {
  const answer = await ask("POST", "/catalogue", { token: await login("alice") });
  assert.deepEqual([answer.status, answer.json.code], [405, "method_not_allowed"]);
});

test("the rules' own tests hold, and explain agrees with what happened", () => {
  const checked = gatepost(["check"]);
  assert.equal(checked.status, 0, checked.stdout + checked.stderr);
  const explained = gatepost(["explain", "GET", "/ADMIN/orders", "--role", "user"]);
  assert.equal(explained.status, 0, explained.stdout + explained.stderr);
  assert.match(explained.stdout, /403/);
});
