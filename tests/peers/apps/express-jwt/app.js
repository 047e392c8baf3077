// An Express app that protects a route with express-jwt, as its README shows it.
import express from "express";
import { expressjwt } from "express-jwt";
import jwt from "jsonwebtoken";

const secret = process.env.APP_SECRET;
const app = express();

// What this app has minted before: only the test asks, on the app's own port.
app.get("/mint/:name", (request, response) => {
  response.json({ access: jwt.sign({ sub: request.params.name }, secret, { expiresIn: "10m" }) });
});

app.get("/protected", expressjwt({ secret, algorithms: ["HS256"] }), (request, response) => {
  response.json({ user: request.auth.username ?? request.auth.sub });
});

app.use((error, request, response, next) => {
  if (error.name !== "UnauthorizedError") return next(error);
  response.status(401).json({ message: error.message });
});

app.listen(Number(process.env.PORT), "127.0.0.1");
