-- name: raise_epoch
-- Raises the epoch: from now on, writes under an older epoch are refused.
UPDATE scheduler_leader SET epoch = epoch + 1, holder = $1, since = now() RETURNING epoch;

-- name: lock_epoch
-- Locks the epoch until the transaction ends. Returns no row when the epoch is no longer $1. The
-- timeout cuts off a leader that freezes within a transaction, because the next leader waits for
-- this lock.
SELECT epoch, set_config('idle_in_transaction_session_timeout', '5s', true)
  FROM scheduler_leader WHERE epoch = $1 FOR SHARE;

-- name: store_counters
-- Returns the stores' saved counters.
SELECT instance_id AS store, account_id AS account, weight, served_nanousd, mean_cost_nanousd,
       settled_jobs, configured_at
  FROM stores;

-- name: account_counters
-- Returns the accounts' saved counters.
SELECT account_id AS account, weight, served_nanousd FROM accounts;

-- name: time
-- Returns PostgreSQL's time.
SELECT now();

-- name: user_actions
-- Returns jobs with a user action (cancel or retry) since $1.
SELECT id, intervened_at FROM blog_generations WHERE intervened_at > $1 ORDER BY intervened_at;

-- name: job_states
-- Returns the current rows of these jobs ($1).
SELECT job.id, job.instance_id AS store, job.status, job.attempt, job.worker, job.created_at,
       job.started_at, job.finished_at, job.intervened_at, job.not_before, job.error,
       job.input_tokens, job.output_tokens, job.reasoning_tokens, job.images, job.cost_nanousd,
       bill.in_doubt
  FROM blog_generations AS job, LATERAL job_bill(job.id) AS bill
 WHERE job.id = ANY ($1::uuid[]);

-- name: configured_stores
-- Returns stores with an account or weight set since $1, and the time of the change.
SELECT store.instance_id AS store, store.account_id AS account, store.weight,
       coalesce(account.weight, 1) AS account_weight, store.configured_at
  FROM stores AS store LEFT JOIN accounts AS account USING (account_id)
 WHERE store.configured_at > $1 ORDER BY store.configured_at;

-- name: budgets
-- Returns the stores' budgets with this month's spend, and the part of the spend paid for unsettled
-- jobs ($1, of the stores $2). The latter is the same amount that `settle_jobs` will find.
WITH this AS (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month),
unsettled AS (
    SELECT in_flight.store, sum(paid.nanousd - job.charged_nanousd)::bigint AS nanousd
      FROM unnest($1::uuid[], $2::text[]) AS in_flight (id, store)
           JOIN store_budgets ON instance_id = in_flight.store
           JOIN blog_generations AS job USING (id)
           CROSS JOIN LATERAL (
               SELECT coalesce(sum(cost_nanousd), 0) AS nanousd
                 FROM blog_steps WHERE job_id = job.id) AS paid
     GROUP BY in_flight.store
)
SELECT budget.instance_id AS store, budget.monthly_nanousd, budget.warn_at, budget.warned_in,
       budget.stopped_in, this.month, now() AS now,
       coalesce(spend.spent_nanousd, 0) AS spent_nanousd,
       coalesce(unsettled.nanousd, 0) AS unsettled_nanousd
  FROM this CROSS JOIN store_budgets AS budget
       LEFT JOIN store_spend AS spend
            ON spend.instance_id = budget.instance_id AND spend.month = this.month
       LEFT JOIN unsettled ON unsettled.store = budget.instance_id;

-- name: budgets_version
-- Returns values that change whenever a budget is set or removed.
SELECT count(*) AS budgets, max(changed_at) AS last_set_at FROM store_budgets;

-- name: mark_budgets_logged
-- Records that this month's log names the warned ($1) and the stopped ($2) stores.
UPDATE store_budgets
   SET warned_in = CASE WHEN instance_id = ANY ($1::text[]) THEN this.month ELSE warned_in END,
       stopped_in = CASE WHEN instance_id = ANY ($2::text[]) THEN this.month ELSE stopped_in END
  FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month) AS this
 WHERE instance_id = ANY ($1::text[] || $2::text[]);

-- name: backlog
-- Returns the jobs that wait or are in flight, to restore the fair queue. Here and below, a job
-- needs no image once its image is saved, or created at the provider.
SELECT id, instance_id AS store, priority, extract(epoch FROM created_at)::float8 AS created_at,
       extract(epoch FROM not_before)::float8 AS not_before, forwarded_at IS NOT NULL AS forwarded,
       forwarded_partition, estimate_nanousd,
       coalesce((job.request ->> 'images')::int, 1) > 0
         AND CASE WHEN job.attempt = 0 THEN true ELSE NOT EXISTS (
             SELECT FROM blog_steps AS step
              WHERE step.job_id = job.id AND step.step = 'image'
                AND (step.state = 'DONE'
                     OR step.state = 'STARTED' AND step.external_id IS NOT NULL))
             END AS needs_images,
       CASE WHEN status = 'PROCESSING' THEN worker END AS worker
  FROM blog_generations AS job WHERE status IN ('PENDING', 'PROCESSING');

-- name: uncharged_jobs
-- Returns jobs that are not in flight and have an uncharged cost: no scheduler has applied their
-- event.
SELECT id FROM blog_generations
 WHERE charged_nanousd <> cost_nanousd
   AND NOT (status IN ('PENDING', 'PROCESSING') AND forwarded_at IS NOT NULL);

-- name: insert_requests
-- Inserts a batch of requests; a repeated id changes nothing. Returns the new ids.
INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, priority,
                              not_before, created_at)
SELECT id, instance_id, source_type, source_id, request, priority, not_before, created_at
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::smallint[],
              $7::timestamptz[], $8::timestamptz[])
    AS new (id, instance_id, source_type, source_id, request, priority, not_before, created_at)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: untouched_jobs
-- Returns those of these jobs ($1) that still wait as they were admitted.
SELECT id FROM blog_generations
 WHERE id = ANY ($1::uuid[]) AND status = 'PENDING' AND attempt = 0 AND intervened_at IS NULL;

-- name: mark_dispatched
-- Marks jobs as dispatched and returns them with the time at which each became due. Jobs that no
-- longer wait, for example cancelled ones, are missing. With a plain condition instead of CASE the
-- planner would use the index of pending jobs and read the whole backlog.
UPDATE blog_generations AS job
   SET forwarded_at = now(), forwarded_partition = next.partition,
       estimate_nanousd = next.estimate, forward_count = job.forward_count + 1
  FROM unnest($1::uuid[], $2::int[], $3::bigint[]) AS next (id, partition, estimate)
 WHERE job.id = next.id AND CASE WHEN job.status = 'PENDING' THEN job.forwarded_at IS NULL END
RETURNING job.id, job.forward_count, job.request ->> 'traceparent' AS traceparent,
          extract(epoch FROM greatest(job.created_at, job.not_before))::float8 AS waiting_since;

-- name: epoch
-- Returns the current epoch.
SELECT epoch FROM scheduler_leader;

-- name: settle_jobs
-- Charges the jobs' costs since the last charge. A repetition returns nothing more to charge.
UPDATE blog_generations AS job
   SET charged_nanousd = job.cost_nanousd
  FROM (SELECT id, charged_nanousd
          FROM blog_generations WHERE id = ANY ($1::uuid[]) FOR UPDATE) AS before
 WHERE job.id = before.id
   -- Jobs in flight again are excluded: an old event says nothing about the current attempt.
   AND NOT (job.status IN ('PENDING', 'PROCESSING') AND job.forwarded_at IS NOT NULL)
RETURNING job.id, job.instance_id AS store, job.status, job.priority,
          extract(epoch FROM job.created_at)::float8 AS created_at,
          extract(epoch FROM job.not_before)::float8 AS not_before,
          coalesce((job.request ->> 'images')::int, 1) > 0
            AND CASE WHEN job.attempt = 0 THEN true ELSE NOT EXISTS (
                SELECT FROM blog_steps AS step
                 WHERE step.job_id = job.id AND step.step = 'image'
                   AND (step.state = 'DONE'
                        OR step.state = 'STARTED' AND step.external_id IS NOT NULL))
                END AS needs_images,
          job.cost_nanousd - before.charged_nanousd AS spent,
          CASE WHEN job.status <> 'CANCELLED'
            THEN extract(epoch FROM job.finished_at - job.started_at)::float8 END AS run_s;

-- name: save_store_counters
-- Adds the changes to the stores' counters.
INSERT INTO stores (instance_id, served_nanousd, mean_cost_nanousd, settled_jobs)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
ON CONFLICT (instance_id) DO UPDATE
   SET served_nanousd = stores.served_nanousd + excluded.served_nanousd,
       mean_cost_nanousd = excluded.mean_cost_nanousd,
       settled_jobs = stores.settled_jobs + excluded.settled_jobs,
       updated_at = now();

-- name: save_account_counters
-- Adds the changes of one or several stores to their accounts' counters.
INSERT INTO accounts (account_id, served_nanousd)
SELECT account, sum(served)::bigint
  FROM unnest($1::text[], $2::bigint[]) AS change (account, served)
 GROUP BY account
ON CONFLICT (account_id) DO UPDATE
   SET served_nanousd = accounts.served_nanousd + excluded.served_nanousd, updated_at = now();

-- name: save_wait_estimates
-- Saves stores' wait estimates.
INSERT INTO store_outlooks (instance_id, reason, limited_by, queued, ahead, first_at, last_at,
                            said_at, held)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::timestamptz[],
                     $7::timestamptz[], $8::timestamptz[], $9::int[])
ON CONFLICT (instance_id) DO UPDATE
   SET reason = excluded.reason, limited_by = excluded.limited_by, queued = excluded.queued,
       ahead = excluded.ahead, first_at = excluded.first_at, last_at = excluded.last_at,
       said_at = excluded.said_at, held = excluded.held;

-- name: delete_wait_estimates
-- Deletes the estimates of stores without waiting jobs.
DELETE FROM store_outlooks WHERE instance_id = ANY ($1::text[]);

-- name: clear_wait_estimates
-- Deletes all estimates at the beginning of a leader session.
DELETE FROM store_outlooks;

-- name: connections
-- Returns the open connections to this database. Starts of other roles' connections are hidden.
SELECT application_name AS process, pid, backend_start AS started_at
  FROM pg_stat_activity WHERE datname = current_database();

-- name: requeue_lost_jobs
-- Requeues jobs of dead workers ($2), and jobs with a lease that expired more than $1 seconds ago
-- (NULL: none of these).
UPDATE blog_generations
   SET status = 'PENDING', forwarded_at = NULL, lease_until = NULL
 WHERE status = 'PROCESSING'
   AND (lease_until < now() - make_interval(secs => $1) OR worker = ANY ($2::text[]))
RETURNING id, instance_id AS store, attempt, worker, created_at, started_at, input_tokens,
          output_tokens, reasoning_tokens, images, cost_nanousd;

-- name: release_cancelled_leases
-- Releases cancelled jobs of dead workers ($2), and those with a lease that expired more than $1
-- seconds ago (NULL: none of these). Saved results are billed, and a started call becomes in doubt:
-- no worker resumes it, even if its external id is known.
WITH lost AS (
    SELECT id FROM blog_generations
     WHERE status = 'CANCELLED' AND lease_until IS NOT NULL
       AND (lease_until < now() - make_interval(secs => $1) OR worker = ANY ($2::text[]))
       FOR UPDATE
), in_doubt AS (
    UPDATE blog_steps AS step
       SET state = 'FAILED', finished_at = now(), in_doubt = step.in_doubt + 1
      FROM lost WHERE step.job_id = lost.id AND step.state = 'STARTED'
    RETURNING step.job_id
)
UPDATE blog_generations AS job
   SET lease_until = NULL, input_tokens = bill.input_tokens, output_tokens = bill.output_tokens,
       reasoning_tokens = bill.reasoning_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM lost,
       LATERAL job_bill(lost.id) AS bill,
       LATERAL (SELECT count(*) FROM in_doubt WHERE job_id = lost.id) AS new (in_doubt)
 WHERE job.id = lost.id
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.worker, job.created_at,
          job.started_at, job.finished_at, job.not_before, job.error, job.input_tokens,
          job.output_tokens, job.reasoning_tokens, job.images, job.cost_nanousd,
          (bill.in_doubt + new.in_doubt)::int AS in_doubt, new.in_doubt AS new_in_doubt;

-- name: requeue_unclaimed
-- Requeues jobs dispatched more than $1 seconds ago that no worker has claimed.
UPDATE blog_generations
   SET forwarded_at = NULL
 WHERE status = 'PENDING' AND forwarded_at < now() - make_interval(secs => $1)
RETURNING id;

-- name: in_flight
-- Returns the jobs in flight.
SELECT id, instance_id AS store, forwarded_partition, estimate_nanousd,
       coalesce((job.request ->> 'images')::int, 1) > 0
         AND CASE WHEN job.attempt = 0 THEN true ELSE NOT EXISTS (
             SELECT FROM blog_steps AS step
              WHERE step.job_id = job.id AND step.step = 'image'
                AND (step.state = 'DONE'
                     OR step.state = 'STARTED' AND step.external_id IS NOT NULL))
             END AS needs_images,
       CASE WHEN status = 'PROCESSING' THEN worker END AS worker
  FROM blog_generations AS job
 WHERE status IN ('PENDING', 'PROCESSING') AND forwarded_at IS NOT NULL;
