// An Express app, for 4 and 5, with every way of asking for a caller that tutorials teach. It exports nothing.
const express = require('express');
const cors = require('cors');

const app = express();
app.use(cors());
app.use(express.json());
app.use(function (request, response, next) {
  response.header('Access-Control-Allow-Headers', 'x-access-token, Origin, Content-Type, Accept');
  next();
});
app.use('/assets', express.static('public'));

const verifyToken = (request, response, next) => {
  if (!request.headers['x-access-token']) return response.status(403).send({ message: 'No token provided!' });
  next();
};
// A name that says nothing: what it does says it.
function before(request, response, next) {
  if (!request.user) return response.status(401).end();
  next();
}
const answer = (request, response) => response.send('');

app.get('/', answer);
app.post('/auth/signin', answer);
app.get('/me', [verifyToken], answer);

const users = express.Router();
users.get('/', answer);
users.use(before);
users.get('/:id', answer);
users.route('/:id/items').get(answer).post(verifyToken, answer);
app.use('/api/users', users);

const other = express();
other.get('/deep', answer);
app.use('/other', other);

// Nobody knows what they ask for, or not all of it.
const slowly = (request, response, next) => next();
function requireRole(role) {
  return function requireRole(request, response, next) {
    return request.user && request.user.role === role ? next() : response.sendStatus(403);
  };
}
app.get('/slow', slowly, answer);
app.delete('/users/:id', requireRole('admin'), answer);
const part = express.Router();
part.use(slowly);
part.get('/x', answer);
app.use('/part', part);

app.get(/.*fly$/, answer);
app.all('/any', answer);
app.route('/checked').all(verifyToken).get(answer).put(answer);
app.use('/proxied', function proxy(request, response) {
  response.send('');
});
module.paths.some((path) => require('fs').existsSync(`${path}/passport`)) && (() => {
  const passport = require('passport');
  const { expressjwt } = require('express-jwt');
  app.get('/by-jwt', expressjwt({ secret: 'a secret', algorithms: ['HS256'] }), answer);
  app.use(passport.initialize());
  app.use(passport.session());
  app.get('/by-passport', passport.authenticate('jwt'), answer);
  app.get('/after-passport', answer);
  app.get('/optional/:part?', answer);
  app.get('/number/:n(\\d+)', answer);
  app.get('/files/*', answer);
})();
app.use((request, response) => response.status(404).send(''));

app.listen(3000, () => console.log('this is never said'));
setInterval(() => {}, 1000);
