// A small shop behind Gatepost. It knows no passwords and no tokens: the gateway decides who
// passes (config.toml) and says who it is in headers that no client can set.
//
// Express reads paths generously: /ADMIN/orders and /admin/orders/ reach the route below as well
// as /admin/orders does. The gateway's rules have to hold for each of these, and for what a
// decoding router would make of the path; test.js tries them.
import express from "express";

const app = express();
app.disable("x-powered-by");

const orders = [
  { id: 1, user: "alice", item: "kettle" },
  { id: 2, user: "bob", item: "lamp" },
];

const caller = (request) => ({
  user: request.get("X-Auth-User") ?? null,
  roles: (request.get("X-Auth-Roles") ?? "").split(",").filter(Boolean),
});

// An optional route: a visitor without a token is nobody, not an error.
app.get("/catalogue", (request, response) => {
  response.json({ items: ["kettle", "lamp"], ...caller(request) });
});

app.get("/orders", (request, response) => {
  const { user } = caller(request);
  response.json({ orders: orders.filter((order) => order.user === user) });
});

app.get("/admin/orders", (request, response) => {
  response.json({ secret: "all orders", orders, ...caller(request) });
});

app.use((request, response) => {
  response.status(404).json({ message: "no such page", path: request.path });
});

const port = Number(process.env.PORT ?? 5000);
// The loopback interface only: the app believes the headers, so nobody else may talk to it.
app.listen(port, "127.0.0.1", () => console.log(`app on http://127.0.0.1:${port}`));
