-- name: create
-- Saves the hash of a new key. The key itself is shown once and never saved.
INSERT INTO api_keys (id, instance_id, hash, hint, scope, name) VALUES ($1, $2, $3, $4, $5, $6);

-- name: list
-- Returns all keys, newest first.
SELECT id, instance_id AS store, scope, name, hint, created_at, revoked_at
  FROM api_keys ORDER BY created_at DESC, id;

-- name: revoke
-- Revokes a key by its id. Returns no row when it does not exist or was revoked before.
UPDATE api_keys SET revoked_at = now(), changed_at = now()
 WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: changed_since
-- Returns the keys created or revoked since a time, for readers with a copy in memory.
SELECT hash, instance_id AS store, scope, name, revoked_at IS NOT NULL AS revoked, changed_at
  FROM api_keys WHERE changed_at > $1 ORDER BY changed_at;

-- name: is_valid
-- Returns whether a key is valid.
SELECT EXISTS (SELECT 1 FROM api_keys WHERE hash = $1 AND revoked_at IS NULL);

-- name: webhook_secret
-- Returns the newest secret that signs a store's webhooks.
SELECT secret FROM webhook_secrets
 WHERE instance_id = $1 AND expires_at IS NULL ORDER BY created_at DESC LIMIT 1;

-- name: first_webhook_secret
-- Saves a store's first secret, unless it has a valid one.
INSERT INTO webhook_secrets (instance_id, secret)
SELECT $1, $2
 WHERE NOT EXISTS (
    SELECT FROM webhook_secrets WHERE instance_id = $1 AND expires_at IS NULL);

-- name: rotate_webhook_secret
-- Saves a new secret. Earlier secrets stay valid for $3 seconds.
WITH former AS (
    UPDATE webhook_secrets SET expires_at = now() + make_interval(secs => $3)
     WHERE instance_id = $1 AND expires_at IS NULL
)
INSERT INTO webhook_secrets (instance_id, secret) VALUES ($1, $2);
