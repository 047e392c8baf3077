// Run by `gatepost init` in a process of its own: loads an Express app and prints its route table as one line
// of JSON behind a marker, or a sentence with ! in front. For Express 4 and 5, CommonJS and modules; opens no port.
'use strict';
const fs = require('fs');
const net = require('net');
const path = require('path');
const { createRequire } = require('module');
const { pathToFileURL } = require('url');

const [file, marker] = process.argv.slice(1);
const place = path.resolve(file);
const exit = process.exit.bind(process);
const fail = (why) => {
  writeLine(`!${JSON.stringify(String(why))}`);
  exit(1);
};
function writeLine(text) {
  const line = Buffer.from(`\n${marker}${text}\n`);
  for (let at = 0; at < line.length;) {
    try {
      at += fs.writeSync(1, line, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
}

const ASKS = /auth(?!or(?!iz))|jwt|token|login|logged|role|permission|admin|protect|restrict|require|api_?key|guard|verify|ensure|passport/i;
const ASKS_NOT = /csrf|xsrf|exempt|optional|anonymous|unprotected|initialize|json|schema|param|require(Body|Fields|https|ssl|Content)/i;
const MORE = /role|permission|admin|scope|claim|staff|super_?user|group|owner|acl|\b403\b|forbidden/i;
const READS = /(headers\s*\[\s*["'`]|headers\.|\.get\(\s*["'`]|req(uest)?\.header\(\s*["'`])(authorization|x-access-token|x-api-key)|jwt\.verify|\.isAuthenticated\(|status\(\s*40[13]\s*\)|sendStatus\(\s*40[13]\s*\)/i;
const HARMLESS = new Set(['corsMiddleware', 'jsonParser', 'urlencodedParser', 'textParser', 'rawParser', 'query', 'expressInit', 'logger',
  'compression', 'helmetMiddleware', 'session', 'cookieParser', 'cookieSession', '_cookieSession', 'serveStatic', 'initialize', 'multerMiddleware']);
const ignored = new WeakSet();

const named = (call) => call.name && !['<anonymous>', 'anonymous', 'bound'].includes(call.name) ? call.name : 'a function without a name';
const asks = (call) => {
  if (typeof call !== 'function' || call.length > 3 || ignored.has(call) || HARMLESS.has(call.name)) return false;
  return (ASKS.test(call.name) && !ASKS_NOT.test(call.name)) || READS.test(Function.prototype.toString.call(call));
};

// What Express forgets: which path a middleware was used with, and which apps there are.
const need = createRequire(place);
let express;
try {
  express = need('express');
} catch (error) {
  const missing = error.code === 'MODULE_NOT_FOUND' && /Cannot find module 'express'/.test(error.message);
  fail(missing ? `there is no Express in the node_modules of ${path.dirname(place)} and above; is it installed (npm install)?`
    : `express cannot be loaded from ${path.dirname(place)}: ${error.message}`);
}
const USED = Symbol('path');
const apps = [];
const init = express.application.init;
express.application.init = function (...all) {
  apps.push(this);
  return init.apply(this, all);
};
const router = express.Router.prototype && express.Router.prototype.use ? express.Router.prototype : express.Router;
const use = router.use;
router.use = function (...all) {
  const before = (this.stack || []).length;
  const result = use.apply(this, all);
  const first = Array.isArray(all[0]) && all[0].length && typeof all[0][0] !== 'function' ? all[0] : [all[0]];
  const paths = first.every((one) => typeof one === 'string' || one instanceof RegExp) ? first : ['/'];
  for (const layer of this.stack.slice(before)) layer[USED] = paths;
  return result;
};
try {
  const { Passport } = need('passport');
  const session = Passport.prototype.session;
  // Looks for a caller, and is fine without.
  Passport.prototype.session = function (...all) {
    const call = session.apply(this, all);
    ignored.add(call);
    return call;
  };
} catch {
  // The app has no passport.
}

// The app is looked at, not started.
let listening;
net.Server.prototype.listen = function () {
  listening = listening || this.listeners('request').find((one) => apps.includes(one));
  return this;
};
process.exit = (code) => {
  throw new Error(`the app has ended itself with ${code}`);
};
process.on('unhandledRejection', () => {});
process.on('uncaughtException', () => {});

const stackOf = (one) => (one._router || (Object.prototype.hasOwnProperty.call(one, 'router') || !one.stack ? safely(() => one.router) : null) || one).stack || [];
function safely(get) {
  try {
    return get();
  } catch {
    return null;
  }
}

const joined = (base, more) => (base.replace(/\/+$/, '') + '/' + more.replace(/^\/+/, '')).replace(/\/+$/, '') || '/';
const isAtOrBelow = (route, base) => {
  const [a, b] = [route.toLowerCase(), base.toLowerCase().replace(/\/+$/, '')];
  return b === '' || a === b || a.startsWith(b + '/');
};

function walk(one, base, guards, found, seen) {
  if (seen.has(one)) return;
  seen = new Set([...seen, one]);
  const mounted = apps.filter((app) => app.parent === one);
  for (const layer of stackOf(one)) {
    if (layer.route) {
      for (const route of [layer.route.path].flat(3)) {
        if (typeof route === 'string') add(layer.route, joined(base, route), guards, found);
        else found.routes.push({ path: `${base} ${route}`, regexp: true, methods: null, guard: 'public', what: 'a regular expression' });
      }
      continue;
    }
    const call = layer.handle;
    for (const at of layer[USED] || ['/']) {
      if (typeof at !== 'string') {
        found.remarks.push(`There is middleware for the regular expression ${at}: look at what it answers.`);
        continue;
      }
      const here = joined(base, at);
      if (call && (call.stack || call.router)) {
        walk(call, here, guards, found, seen);
      } else if (call && call.name === 'mounted_app') {
        for (const app of mounted.filter((app) => [app.mountpath].flat().some((mount) => joined('/', mount) === joined('/', at)))) {
          walk(app, here, guards, found, seen);
        }
      } else if (call && call.name === 'serveStatic') {
        found.routes.push({ path: here, below: true, methods: ['GET'], what: 'static files', ...judged(here, guards, []) });
      } else if (call && call.name === 'corsMiddleware') {
        found.preflights = true;
      } else if (asks(call)) {
        guards.push({ at: here, name: named(call), call });
      } else if (isUnknown(call) && call.length === 3 && here !== '/') {
        guards.push({ at: here, name: named(call), call, unknown: true });
      } else if (isUnknown(call) && call.length === 3) {
        found.remarks.push(`Before every request the app calls ${named(call)}, which may ask for a caller: what is open here may not be open there.`);
      } else if (call && call.length < 4 && here !== joined(base, '/') && !HARMLESS.has(call.name)) {
        found.remarks.push(`At ${here} there is ${named(call)}, which is no route: if it answers requests, it needs one.`);
      }
    }
  }
}

// What nobody knows may ask for anything.
function isUnknown(call) {
  return typeof call === 'function' && call.length < 4 && !ignored.has(call) && !HARMLESS.has(call.name);
}

function judged(route, guards, own) {
  const mine = own.filter(isUnknown).map((call) => ({ name: named(call), call, unknown: !asks(call) }));
  const all = [...guards.filter((guard) => isAtOrBelow(route, guard.at)), ...mine];
  if (all.length === 0) return { guard: 'public' };
  const names = (some) => [...new Set(some.map((guard) => guard.name))].join(', ');
  const known = all.filter((guard) => !guard.unknown);
  const decide = known.length ? [] : [`what ${names(all)} asks for is not known; access = "public" if it asks for nobody`];
  const more = all.filter((guard) => MORE.test(guard.name) || (!guard.unknown && MORE.test(Function.prototype.toString.call(guard.call))));
  for (const guard of more) decide.push(`${guard.name} may ask for more than a caller; then add roles = [...]`);
  return { guard: 'authenticated', why: names(all), decide: [...new Set(decide)] };
}

function add(route, at, guards, found) {
  const specific = Object.keys(route.methods).filter((name) => name !== '_all' && (name !== 'head' || !route.methods.get));
  // `.all(check).get(…)` is a check before the others; app.all(…) is a row for each method that Node knows.
  const any = specific.length === 0 || specific.length > 25;
  for (const method of any ? [null] : specific) {
    const asked = any && specific.length > 25 ? 'get' : method;
    const calls = route.stack.filter((layer) => !layer.method || !asked || layer.method === asked).map((layer) => layer.handle);
    const handler = calls[calls.length - 1];
    const what = handler && handler.name && !['<anonymous>', 'anonymous'].includes(handler.name) ? handler.name : 'a handler';
    found.routes.push({ path: at, methods: method && [method.toUpperCase()], what, ...judged(at, guards, calls.slice(0, -1)) });
  }
}

function table(exported) {
  const candidates = [listening, exported, exported && exported.app, exported && exported.default].filter((one) => apps.includes(one));
  const root = candidates[0] || apps.find((one) => !one.parent && stackOf(one).some((layer) => layer.route || (layer.handle || {}).stack)) || apps[0];
  const version = (safely(() => need('express/package.json')) || {}).version || '';
  const found = { framework: `Express ${version}`.trim(), preflights: false, remarks: [], routes: [] };
  if (root) walk(root, '/', [], found, new Set());
  return found;
}

import(pathToFileURL(place)).then(async (module) => {
  let exported = module.default;
  if (apps.length === 0 && typeof exported === 'function') exported = await exported();
  let found = table(exported);
  // Some apps are made when their database has answered.
  for (let turn = 0; turn < 40 && found.routes.length === 0; turn += 1) {
    await new Promise((next) => setTimeout(next, 50));
    found = table(exported);
  }
  writeLine(JSON.stringify(found));
  exit(0);
}).catch((error) => {
  const said = String((error && error.stack) || error);
  const missing = error && ['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND'].includes(error.code);
  fail(missing ? `loading ${place} needs what is not there; is everything installed (npm install)?\n${said}`
    : `loading ${place} failed; give it the environment and the files that the app runs with\n${said}`);
});
