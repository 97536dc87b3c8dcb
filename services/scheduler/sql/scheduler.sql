-- name: take_lead
-- Raise the epoch: every forward under an older one finds nothing to update from now on.
UPDATE scheduler_leader SET epoch = epoch + 1, holder = $1, since = now() RETURNING epoch;

-- name: fence
-- Hold the lead until the transaction ends: nothing when the epoch is no longer $1. A leader that freezes in the middle
-- of a transaction is cut off, for its successor waits for this lock.
SELECT epoch, set_config('idle_in_transaction_session_timeout', '5s', true)
  FROM scheduler_leader WHERE epoch = $1 FOR SHARE;

-- name: counters
-- The stores' saved counters.
SELECT instance_id AS store, account_id AS account, weight, served_nanousd, mean_cost_nanousd, settled_jobs,
       configured_at
  FROM stores;

-- name: accounts
-- The accounts' saved counters.
SELECT account_id AS account, weight, served_nanousd FROM accounts;

-- name: clock
-- PostgreSQL's time.
SELECT now();

-- name: intervened
-- Jobs that somebody has cancelled or asked for again since $1.
SELECT id, intervened_at FROM blog_generations WHERE intervened_at > $1 ORDER BY intervened_at;

-- name: told
-- What is true of these jobs ($1).
SELECT job.id, job.instance_id AS store, job.status, job.attempt, job.worker, job.created_at, job.started_at,
       job.finished_at, job.intervened_at, job.not_before, job.error, job.input_tokens, job.output_tokens, job.images,
       job.cost_nanousd, bill.in_doubt
  FROM blog_generations AS job, LATERAL job_bill(job.id) AS bill
 WHERE job.id = ANY ($1::uuid[]);

-- name: configured
-- What somebody has set since $1: whose store it is, and what it and its account weigh. With the time to ask from next.
SELECT store.instance_id AS store, store.account_id AS account, store.weight,
       coalesce(account.weight, 1) AS account_weight, store.configured_at
  FROM stores AS store LEFT JOIN accounts AS account USING (account_id)
 WHERE store.configured_at > $1 ORDER BY store.configured_at;

-- name: budgets
-- Stores' budgets, with what each has spent this month, and what of that was paid for jobs that are not settled yet ($1,
-- of the stores $2): the same that `settle` will find.
WITH this AS (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month),
owing AS (
    SELECT flying.store, sum(paid.nanousd - job.charged_nanousd)::bigint AS nanousd
      FROM unnest($1::uuid[], $2::text[]) AS flying (id, store)
           JOIN store_budgets ON instance_id = flying.store
           JOIN blog_generations AS job USING (id)
           CROSS JOIN LATERAL (
               SELECT coalesce(sum(cost_nanousd), 0) AS nanousd FROM blog_steps WHERE job_id = job.id) AS paid
     GROUP BY flying.store
)
SELECT budget.instance_id AS store, budget.monthly_nanousd, budget.warn_at, budget.warned_in, budget.stopped_in,
       this.month, now() AS now, coalesce(ledger.spent_nanousd, 0) AS spent_nanousd,
       coalesce(owing.nanousd, 0) AS unsettled_nanousd
  FROM this CROSS JOIN store_budgets AS budget
       LEFT JOIN store_spend AS ledger ON ledger.instance_id = budget.instance_id AND ledger.month = this.month
       LEFT JOIN owing ON owing.store = budget.instance_id;

-- name: budgets_set
-- What changes whenever somebody sets a budget or removes one.
SELECT count(*) AS budgets, max(changed_at) AS last_set_at FROM store_budgets;

-- name: note_told
-- That the log has said it this month: who is warned ($1), who is stopped ($2).
UPDATE store_budgets
   SET warned_in = CASE WHEN instance_id = ANY ($1::text[]) THEN told.month ELSE warned_in END,
       stopped_in = CASE WHEN instance_id = ANY ($2::text[]) THEN told.month ELSE stopped_in END
  FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) AS told
 WHERE instance_id = ANY ($1::text[] || $2::text[]);

-- name: backlog
-- All that waits or is in flight, to rebuild the order from.
SELECT id, instance_id AS store, priority, extract(epoch FROM created_at)::float8 AS created_at,
       extract(epoch FROM not_before)::float8 AS not_before, forwarded_at IS NOT NULL AS forwarded,
       forwarded_partition, estimate_nanousd, CASE WHEN status = 'PROCESSING' THEN worker END AS worker
  FROM blog_generations WHERE status IN ('PENDING', 'PROCESSING');

-- name: uncharged
-- Jobs whose bill nobody has been charged for, though they are not in flight: the event about it was never heard.
SELECT id FROM blog_generations
 WHERE charged_nanousd <> cost_nanousd AND NOT (status IN ('PENDING', 'PROCESSING') AND forwarded_at IS NOT NULL);

-- name: admit
-- One batch of requests becomes rows; a repeated id changes nothing. Returns the new ones.
INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, priority, not_before, created_at)
SELECT id, instance_id, source_type, source_id, request, priority, not_before, created_at
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::smallint[], $7::timestamptz[],
              $8::timestamptz[])
    AS new (id, instance_id, source_type, source_id, request, priority, not_before, created_at)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: untouched
-- Which of these jobs ($1) wait as they were admitted: nothing has happened to them since.
SELECT id FROM blog_generations
 WHERE id = ANY ($1::uuid[]) AND status = 'PENDING' AND attempt = 0 AND intervened_at IS NULL;

-- name: forward
-- Mark jobs as forwarded. Those cancelled meanwhile are not returned. With since when each could have gone.
-- CASE, for the planner would take a plain condition to the index of all that is pending, and read the whole backlog.
UPDATE blog_generations AS job
   SET forwarded_at = now(), forwarded_partition = next.partition, estimate_nanousd = next.estimate,
       forward_count = job.forward_count + 1
  FROM unnest($1::uuid[], $2::int[], $3::bigint[]) AS next (id, partition, estimate)
 WHERE job.id = next.id AND CASE WHEN job.status = 'PENDING' THEN job.forwarded_at IS NULL END
RETURNING job.id, job.forward_count, job.request ->> 'traceparent' AS traceparent,
          extract(epoch FROM greatest(job.created_at, job.not_before))::float8 AS waiting_since;

-- name: epoch
-- Who leads now.
SELECT epoch FROM scheduler_leader;

-- name: settle
-- Charge what jobs have cost since they were charged last. Repeating it returns nothing more to charge.
UPDATE blog_generations AS job
   SET charged_nanousd = job.cost_nanousd
  FROM (SELECT id, charged_nanousd FROM blog_generations WHERE id = ANY ($1::uuid[]) FOR UPDATE) AS before
 WHERE job.id = before.id
   -- Not those that are on their way again: an old event of theirs says nothing about the attempt that runs.
   AND NOT (job.status IN ('PENDING', 'PROCESSING') AND job.forwarded_at IS NOT NULL)
RETURNING job.id, job.instance_id AS store, job.status, job.priority,
          extract(epoch FROM job.created_at)::float8 AS created_at,
          extract(epoch FROM job.not_before)::float8 AS not_before,
          job.cost_nanousd - before.charged_nanousd AS spent,
          CASE WHEN job.status <> 'CANCELLED' THEN extract(epoch FROM job.finished_at - job.started_at)::float8 END AS run_s;

-- name: save_counters
-- Add what changed to the stores' counters.
INSERT INTO stores (instance_id, served_nanousd, mean_cost_nanousd, settled_jobs)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
ON CONFLICT (instance_id) DO UPDATE
   SET served_nanousd = stores.served_nanousd + excluded.served_nanousd,
       mean_cost_nanousd = excluded.mean_cost_nanousd,
       settled_jobs = stores.settled_jobs + excluded.settled_jobs,
       updated_at = now();

-- name: save_accounts
-- Add what changed to the accounts' counters, through one store or several.
INSERT INTO accounts (account_id, served_nanousd)
SELECT account, sum(served)::bigint FROM unnest($1::text[], $2::bigint[]) AS change (account, served) GROUP BY account
ON CONFLICT (account_id) DO UPDATE
   SET served_nanousd = accounts.served_nanousd + excluded.served_nanousd, updated_at = now();

-- name: save_outlooks
-- Why stores wait, and until about when.
INSERT INTO store_outlooks (instance_id, reason, limited_by, queued, ahead, first_at, last_at, said_at, held)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::timestamptz[], $7::timestamptz[],
                     $8::timestamptz[], $9::int[])
ON CONFLICT (instance_id) DO UPDATE
   SET reason = excluded.reason, limited_by = excluded.limited_by, queued = excluded.queued, ahead = excluded.ahead,
       first_at = excluded.first_at, last_at = excluded.last_at, said_at = excluded.said_at,
       held = excluded.held;

-- name: drop_outlooks
-- These stores wait no longer.
DELETE FROM store_outlooks WHERE instance_id = ANY ($1::text[]);

-- name: clear_outlooks
-- A new leader begins.
DELETE FROM store_outlooks;

-- name: return_lost
-- Jobs whose lease ended some time ago ($1 seconds) return to the queue: their worker is gone.
UPDATE blog_generations
   SET status = 'PENDING', forwarded_at = NULL, lease_until = NULL
 WHERE status = 'PROCESSING' AND lease_until < now() - make_interval(secs => $1)
RETURNING id, instance_id AS store, attempt, worker, created_at, started_at, input_tokens, output_tokens, images,
          cost_nanousd;

-- name: let_go_lost
-- Cancelled jobs whose lease ended some time ago ($1 seconds), their worker being gone: what was saved is billed, and a
-- call that was in flight is in doubt. Nobody takes it up, be its name known or not.
WITH lost AS (
    SELECT id FROM blog_generations
     WHERE status = 'CANCELLED' AND lease_until < now() - make_interval(secs => $1) FOR UPDATE
), doubted AS (
    UPDATE blog_steps AS step SET state = 'FAILED', finished_at = now(), in_doubt = step.in_doubt + 1
      FROM lost WHERE step.job_id = lost.id AND step.state = 'STARTED'
    RETURNING step.job_id
)
UPDATE blog_generations AS job
   SET lease_until = NULL, input_tokens = bill.input_tokens, output_tokens = bill.output_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM lost, LATERAL job_bill(lost.id) AS bill, LATERAL (SELECT count(*) FROM doubted WHERE job_id = lost.id) AS new (doubts)
 WHERE job.id = lost.id
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.worker, job.created_at, job.started_at,
          job.finished_at, job.not_before, job.error, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd,
          (bill.in_doubt + new.doubts)::int AS in_doubt, new.doubts;

-- name: return_unclaimed
-- Jobs that were forwarded and not claimed for too long ($1 seconds) return to the queue.
UPDATE blog_generations
   SET forwarded_at = NULL
 WHERE status = 'PENDING' AND forwarded_at < now() - make_interval(secs => $1)
RETURNING id;

-- name: in_flight
-- The jobs that hold a slot, as PostgreSQL has it.
SELECT id, instance_id AS store, forwarded_partition, estimate_nanousd,
       CASE WHEN status = 'PROCESSING' THEN worker END AS worker
  FROM blog_generations WHERE status IN ('PENDING', 'PROCESSING') AND forwarded_at IS NOT NULL;
